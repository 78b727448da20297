"""The structure of a network: which positions of which tensors shrink together."""
