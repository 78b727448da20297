import pytest
import torch

from tersor.errors import TersorWarning, UnsupportedTypeError
from tersor.interop import detect_ties, from_state_dict

from .helpers import ALL_DTYPES, assert_same, one_of_each


def test_every_tensor_as_it_is():
    tensors = one_of_each(ALL_DTYPES) | {
        "t": torch.arange(6.0).reshape(2, 3).T,
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    checkpoint = from_state_dict(tensors, {"note": b"x"})
    assert checkpoint.info.format == "state_dict"
    assert checkpoint.info.attachments == {"note": b"x"}
    assert [t.name for t in checkpoint.info.tensors] == list(tensors)
    for name, tensor in tensors.items():
        got = checkpoint.read(name)
        assert got.is_contiguous()
        assert not got.requires_grad
        assert_same(got, tensor)


def test_lazy_conjugation_is_resolved():
    z = torch.randn(3, dtype=torch.complex64)
    got = from_state_dict({"z": z.conj(), "n": z.conj().imag}).read("z")
    assert not got.is_conj()
    assert torch.equal(got, torch.complex(z.real, -z.imag))


def test_read_is_safe_to_modify():
    w = torch.zeros(3)
    checkpoint = from_state_dict({"w": w})
    checkpoint.read("w").fill_(1)
    assert w.sum() == 0


def test_ties_are_the_same_view_only():
    w = torch.randn(4, 4)
    views = {
        "w": w,
        "same": w.view(4, 4),
        "transposed": w.T,
        "slice": w[:2],
        "flat": w.view(16),
        "bits": w.view(torch.int32),
        "copy": w.clone(),
        "slice_again": w[:2],
        "empty": torch.empty(0),
        "empty_too": torch.empty(0),
    }
    assert detect_ties(views.items()) == {"same": "w", "slice_again": "slice"}
    ties = {t.name: t.tied_to for t in from_state_dict(views).info.tensors if t.tied_to}
    assert ties == {"same": "w", "slice_again": "slice"}


def test_conjugate_is_no_tie():
    z = torch.randn(3, dtype=torch.complex64)
    assert detect_ties([("z", z), ("c", z.conj())]) == {}


def test_none_is_left_out_with_a_warning():
    with pytest.warns(TersorWarning, match="_extra_state"):
        checkpoint = from_state_dict({"a": torch.ones(1), "b._extra_state": None})
    assert [t.name for t in checkpoint.info.tensors] == ["a"]


@pytest.mark.parametrize(
    "value",
    [
        {"version": 1},
        3,
        torch.ones(2, 2).to_sparse(),
        torch.empty(2, device="meta"),
        torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        torch.nn.UninitializedParameter(),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_plain_tensor_is_refused_by_name(value):
    with pytest.raises(UnsupportedTypeError, match=r"state_dict\['odd'\]"):
        from_state_dict({"odd": value})
