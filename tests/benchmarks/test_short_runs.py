"""The short runs of the benchmarks of pruning: they come to their end, say what they found, and write no results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import coverage, filters, lenet_pruning, session_overhead, tickets

RESULTS = Path(coverage.__file__).parent / "results"


@pytest.fixture(autouse=True)
def short(tmp_path, monkeypatch):
    """Journals go to a folder of the test's own; results stay as they are, and so does the number of threads."""
    monkeypatch.setenv("TERSOR_WORK", str(tmp_path))
    threads, before = torch.get_num_threads(), written()
    yield
    torch.set_num_threads(threads)
    assert written() == before


def written() -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in RESULTS.iterdir()}


def test_coverage(capsys, monkeypatch):
    monkeypatch.setattr(coverage, "TOOLS", {"tersor": coverage.tersor_shrinks})
    coverage.main(["--short", "SqueezeNet"])
    text = capsys.readouterr().out
    assert "tersor 30%: done" in text and "tersor 50%: done" in text
    found = json.loads(text[text.index("{\n") :])
    assert found["table"] == {"of": 1, "done": {"tersor": 1}, "only_theirs": []}
    assert [(row["layers"], row["skipped"]) for row in found["depths"]] == [(20, [])]


def test_pruned_lenets(capsys):
    pytest.importorskip("sklearn")
    lenet_pruning.main(["--short", "LeNet-300-100"])
    text = capsys.readouterr().out
    assert "at 8 %: lost" in text and "LeNet-300-100" in text


def test_tickets(capsys):
    pytest.importorskip("sklearn")
    tickets.main(["--short"])
    text = capsys.readouterr().out
    assert all(arm in text for arm in ("dense", "ticket", "reinitialised", "scratch"))


def test_filters(capsys):
    pytest.importorskip("sklearn")
    filters.main(["--short", "criteria"])
    text = capsys.readouterr().out
    assert all(name in text for name in ("criteria", "unpruned", "l1"))


def test_session_overhead(capsys):
    found = session_overhead.main(["--short"])
    assert set(found["seconds"]) == {"plain", "session"} and min(found["seconds"].values()) > 0
    low, high = found["spread"]
    assert low <= found["added"] <= high and "allowed 15 %" in capsys.readouterr().out
