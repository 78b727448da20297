"""Architectures that structured pruning must follow, one file a family; `catalogue.py` lists them."""
