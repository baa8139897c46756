"""The outside shape of the Messages API; nothing else in the server knows its JSON."""
