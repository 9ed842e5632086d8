"""Batch systems behind one small interface, and the wrapper that they run."""
