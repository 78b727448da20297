from __future__ import annotations

import lzma
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor.container.text import compress_text, decompress_text
from tersor.errors import CorruptFileError
from tests.twins import text_model as twin


def joined(names: list[str]) -> bytes:
    return b"".join(name.encode() + b"\0" for name in names)


def mlp_names() -> list[str]:
    return [f"fc{i}.{kind}" for i in (1, 2, 3) for kind in ("weight", "bias")]


def resnet_names() -> list[str]:
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["conv1.weight", *(f"bn1.{kind}" for kind in kinds)]
    for block in (f"layer{i}.{j}" for i in (1, 2, 3) for j in range(3)):
        for n in (1, 2):
            names += [f"{block}.conv{n}.weight", *(f"{block}.bn{n}.{kind}" for kind in kinds)]
    return [*names, "linear.weight", "linear.bias"]


def llama_names(layers: int) -> list[str]:
    parts = [f"self_attn.{p}_proj" for p in "qkvo"] + [f"mlp.{p}_proj" for p in ("gate", "up", "down")]
    parts += ["input_layernorm", "post_attention_layernorm"]
    names = [f"model.layers.{i}.{part}.weight" for i in range(layers) for part in parts]
    return ["model.embed_tokens.weight", *names, "model.norm.weight", "lm_head.weight"]


LISTS = {"mlp": mlp_names(), "resnet": resnet_names(), "llama": llama_names(30)}
COLUMNS = bytes([1, 0] * 3 + [0] * 6 + [2, 1] * 3) + bytes.fromhex("ac02 9006 ac02 64 ac02 64 0a 64 0a")

texts = st.one_of(
    st.binary(max_size=300),
    st.lists(st.sampled_from(["layers.", "7", "12.", "999999999", "bias\0", "weight\0", "9", "\x80"]), max_size=60).map(
        lambda parts: "".join(parts).encode("latin-1")
    ),
)


@pytest.mark.parametrize("names", LISTS.values(), ids=LISTS.keys())
def test_lists_of_names_come_back_and_are_small(names):
    text = joined(names)
    blob = compress_text(text)
    assert decompress_text(blob, len(text)) == text
    assert len(blob) < len(zlib.compress(text, 9)) / 4
    assert len(blob) < len(lzma.compress(text)) / 4


def test_a_tiny_index_is_below_two_fifths():
    text = joined(mlp_names()) + COLUMNS
    assert len(compress_text(text)) < 0.4 * len(text)


@pytest.mark.parametrize("text", [joined(mlp_names()) + COLUMNS, joined(resnet_names())[:700], bytes(range(256))])
def test_same_bytes_as_the_twin(text):
    assert compress_text(text) == twin.compress(text)


@settings(deadline=None, max_examples=5)
@given(texts)
def test_same_bytes_as_the_twin_for_any_text(text):
    assert compress_text(text) == twin.compress(text)


@settings(deadline=None, max_examples=100)
@given(texts)
def test_round_trip(text):
    assert decompress_text(compress_text(text), len(text)) == text


@pytest.mark.parametrize("byte", [b"\0", b"a", b"\xff", b"0", b"9"])
def test_round_trip_of_long_runs(byte):
    text = byte * 300_000
    blob = compress_text(text)
    assert len(blob) < 300
    assert decompress_text(blob, len(text)) == text


def test_round_trip_beyond_the_window_of_matches():
    text = (joined(llama_names(30)) * 110)[: (1 << 20) + 100_000]
    assert decompress_text(compress_text(text), len(text)) == text


def test_empty_text():
    assert compress_text(b"") == b""
    assert decompress_text(b"", 0) == b""
    with pytest.raises(CorruptFileError, match="0 bytes"):
        decompress_text(b"\x01", 0)


def test_longer_blobs_are_refused():
    text = joined(resnet_names())
    blob = compress_text(text)
    for tail in (b"\0", b"\0\0\0\0\0\0\0\0", b"\x01", b"\xff" * 9):
        with pytest.raises(CorruptFileError, match="does not decode"):
            decompress_text(blob + tail, len(text))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damage_ends_in_an_error_or_in_another_text(data):
    text = joined(resnet_names()[:20]) + COLUMNS
    blob = compress_text(text)
    position = data.draw(st.integers(0, len(blob) - 1))
    flipped = bytearray(blob)
    flipped[position] ^= data.draw(st.integers(1, 255))
    for damaged in (blob[:position], bytes(flipped), data.draw(st.binary(max_size=80))):
        try:
            other = decompress_text(damaged, len(text))
        except CorruptFileError:
            continue
        # Every accepted blob is the only one of its text.
        assert len(other) == len(text)
        assert compress_text(other) == damaged
        assert (other == text) == (damaged == blob)
