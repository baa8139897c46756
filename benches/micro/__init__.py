"""Small measurements of one part each: what our own code costs, the engine left out."""
