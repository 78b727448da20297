"""What messages have in common."""

import pytest

from tersor.errors import CalibrationError, did_you_mean, named, shortlist


def test_near_names():
    assert did_you_mean("layr1.weight", ["layer1.weight", "head.bias"]) == "; did you mean layer1.weight?"
    assert did_you_mean("zzz", ["layer1.weight"]) == did_you_mean("zzz", []) == ""


def test_a_handful_of_names():
    names = list("abcdefgh")
    assert shortlist(names[:5]) == "a, b, c, d, e" and shortlist(names) == "a, b, c, d, e and 3 more"
    assert shortlist([]) == ""


@pytest.mark.parametrize(
    ("name", "said", "expected"),
    [
        ("1", "it is for Conv1d, of 1 kind", "1: it is for Conv1d, of 1 kind"),
        ("weight", "the weight is empty", "weight: the weight is empty"),
        ("a.weight", "not for a.weight2 or b.a.weight", "a.weight: not for a.weight2 or b.a.weight"),
        ("a.1", "layer a.1.conv saw NaN", "a.1: layer a.1.conv saw NaN"),
        ("a.weight", "batch 2: the inputs of a.weight.", "batch 2: the inputs of a.weight."),
        ("1", "1: nothing is left", "1: nothing is left"),
        ("rnn", "module 'rnn' gave no output", "module 'rnn' gave no output"),
        ("", "the network is empty", "the network is empty"),
    ],
)
def test_names_are_said_once_and_never_left_out(name, said, expected):
    error = named(name, CalibrationError(said))
    assert str(error) == expected and type(error) is CalibrationError
