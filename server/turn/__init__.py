"""One answer, from a conversation to its content blocks."""
