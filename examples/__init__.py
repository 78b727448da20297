"""Scripts that train, compress and measure; each has a short version that is tested."""
