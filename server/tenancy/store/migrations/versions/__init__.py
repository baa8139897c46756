"""The steps, each a file with the number of its place."""
