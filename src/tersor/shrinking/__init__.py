"""Shrinking: whole networks pruned."""
