"""Sessions in the training loops of others: each file needs its own library, and is imported by name."""
