"""What was asked, in our words: the vocabulary, and the intake that fills it."""
