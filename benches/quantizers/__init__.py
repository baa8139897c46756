"""Programs that each quantize one folder with one library, and share nothing but files."""
