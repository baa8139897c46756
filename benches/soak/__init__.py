"""Many streams at once for minutes: whether the server stays even, small and true."""
