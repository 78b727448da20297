import pytest

from examples import clustering


def test_short():
    pytest.importorskip("sklearn")
    found = clustering.short()
    assert {(row["bits"], row["init"]) for row in found["starts"]} == {
        (b, i) for b in (1, 3) for i in clustering.STARTS
    }
    assert {(row["bits"], row["arm"]) for row in found["terms"]} == {(b, a) for b in (1, 3) for a in clustering.ARMS}
    three = {row["arm"]: row for row in found["terms"] if row["bits"] == 3}
    for row in three.values():
        assert row["test"]["mean"] < found["dense"]["mean"] + 15
    assert three["term"]["strength"] in clustering.STRENGTHS
    assert all(row["bytes"]["mean"] < 12_000 for row in found["terms"])
