import pytest

from tersor._native import core


@pytest.fixture
def every_isa():
    """The instruction sets of this CPU; whatever a test forces, the best one is restored."""
    names = ("scalar", "avx2", "avx512")
    yield names[: names.index(core.detected_isa()) + 1]
    core.force_isa(core.detected_isa())
