"""JSON texts of strangers end in the caller's error."""

import json

import pytest

from tersor.errors import MismatchError
from tersor.versioned import read_versioned


def read(text):
    return read_versioned(text, lambda top: top["value"] + 1, version=3, limit=40, error=MismatchError, what="the text")


@pytest.mark.parametrize("kind", [str, str.encode])
def test_what_is_built(kind):
    assert read(kind(json.dumps({"format": 3, "value": 1}))) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"format": 3, "value": 1}' + " " * 40, "larger than 40 bytes"),
        ('{"format": 4, "value": 1}', "format 4; this tersor reads 3: install a newer one"),
        ('{"format": 3}', "value"),
        ('{"format": 3, "value": "1"}', ""),
        ("{}", "format"),
        ("[]", ""),
        ("3", ""),
        ("{", ""),
        ("[" * 40, ""),
        (b"\xff", ""),
        (None, ""),
    ],
)
def test_damage(text, says):
    with pytest.raises(MismatchError, match=f"^the text is damaged: .*{says}"):
        read(text)
