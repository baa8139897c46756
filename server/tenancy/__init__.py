"""Who may do how much, and what must outlive the process: keys, limits, ledger, batches, files."""
