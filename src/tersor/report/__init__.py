"""Measures of files and tensors, and how they are shown."""
