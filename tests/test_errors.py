"""What messages have in common."""

from tersor.errors import did_you_mean, shortlist


def test_near_names():
    assert did_you_mean("layr1.weight", ["layer1.weight", "head.bias"]) == "; did you mean layer1.weight?"
    assert did_you_mean("zzz", ["layer1.weight"]) == did_you_mean("zzz", []) == ""


def test_a_handful_of_names():
    names = list("abcdefgh")
    assert shortlist(names[:5]) == "a, b, c, d, e" and shortlist(names) == "a, b, c, d, e and 3 more"
    assert shortlist([]) == ""
