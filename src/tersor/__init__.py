"""tersor: trained neural networks as small as they can be, and faster, at an accuracy you choose."""

from tersor._version import __version__

__all__ = ["__version__"]
