"""Makes a small student from what a teacher said: samples in, a trained model folder out."""
