"""Makes a model folder smaller and keeps what it knows: full precision in, 4-bit weights out."""
