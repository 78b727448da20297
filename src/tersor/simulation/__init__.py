"""Weights and activations as they will be once compressed, while a network trains: one technique a file."""
