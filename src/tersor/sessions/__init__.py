"""Compression inside a training loop."""
