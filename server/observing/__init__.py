"""What operators see of a running server: counters, log lines and traces. Never what was asked."""
