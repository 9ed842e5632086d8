"""For tests, also those of plug-in authors: Hypothesis strategies of the vocabulary."""
