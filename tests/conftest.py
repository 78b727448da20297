"""Fixtures that several rooms use."""

import pytest
from hypothesis import HealthCheck, settings

from tersor._native import core

# Time says nothing here: machines that run tests are shared.
settings.register_profile("tersor", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tersor")


@pytest.fixture(params=["scalar", "avx2", "avx512"])
def isa(request):
    """Forces each instruction set in turn; those that this CPU lacks are skipped."""
    before = core.active_isa()
    try:
        core.force_isa(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    core.force_isa(before)


@pytest.fixture
def every_isa():
    """The instruction sets of this CPU; whatever a test forces, the best one is restored."""
    names = ("scalar", "avx2", "avx512")
    yield names[: names.index(core.detected_isa()) + 1]
    core.force_isa(core.detected_isa())
