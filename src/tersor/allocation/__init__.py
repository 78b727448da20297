"""Allocation: budgets, and the search for the one multiplier that meets them."""

from tersor.allocation.budget import Budget
from tersor.allocation.curve import Curve, Point
from tersor.allocation.search import least_size, meet_size

__all__ = ["Budget", "Curve", "Point", "least_size", "meet_size"]
