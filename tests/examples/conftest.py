"""What tests of several examples need."""

from __future__ import annotations

import pytest
import torch

from benchmarks.training import Split


@pytest.fixture
def few_digits(monkeypatch, tmp_path):
    """A function: an example's module then has a few easy pictures for digits; gives the folder it keeps things in."""
    monkeypatch.setenv("TERSOR_WORK", str(tmp_path))
    images = torch.randn(192, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    part = images, images[:, 0, 10:18, 10:18].sum((1, 2)).gt(0).long()

    def serve(example):
        monkeypatch.setattr(example, "digits", lambda: Split(part, part, part))
        return tmp_path

    return serve
