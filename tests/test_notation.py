"""JSON and YAML, strictly."""

import pytest

from tersor.errors import UsageError
from tersor.notation import parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-2E5", -2e5),
        (".5e2", 50.0),
        ("3.e+1", 30.0),
        ("1.0e-3", 0.001),
        ("e5", "e5"),
        ("1e", "1e"),
        ("features.1e3.weight", "features.1e3.weight"),
        ("12", 12),
    ],
)
def test_numbers(text, value):
    found = parse(f"- {{rate: {text}}}", "recipe.yaml")
    assert found == [{"rate": value}] and type(found[0]["rate"]) is type(value)


def test_json_first():
    assert parse('[{"rate": 1e-3, "on": true}]', "recipe.json") == [{"rate": 0.001, "on": True}]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' is there twice in {a, b, a}"),
        ('[{"a": {"b": 1, "b": 1}}]', "key 'b' is there twice"),
        ("- match: x\n  uniform: {bits: 4}\n- match: y\n  bits: 3\n  bits: 4\n", "key 'bits' .* begins in line 3"),
        ("a: {b: 1, b: 2}", "key 'b' is there twice"),
        ("a: 2026-99-99", "not valid YAML"),
        ("a: [", "not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_what_is_refused(text, says):
    with pytest.raises(UsageError, match=says):
        parse(text, "recipe")


def test_anchors_are_merged():
    text = "- &first {bits: 4, group: 2}\n- {<<: *first, bits: 5}\n"
    assert parse(text, "recipe.yaml")[1] == {"bits": 5, "group": 2}


def test_a_json_file_is_no_yaml():
    with pytest.raises(UsageError, match="not valid JSON"):
        parse("a: 1", "recipe.json")
