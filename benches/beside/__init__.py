"""Servers beside each other: the same model, the same settings, the same requests, in turns."""
