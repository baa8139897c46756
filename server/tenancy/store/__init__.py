"""The database: its tables, how it is opened and brought up to date, and how it is written to."""
