"""Kept prompts: what the engine computed of a prompt outlives its memory and the process."""
