"""Refinement: preference pairs by critique, then DPO."""
