"""LSTMs with products of integers, against torch's own."""

import pytest
import torch
from torch import nn

from tersor import load_int8, quantize_int8, save
from tersor.errors import MismatchError, UsageError
from tersor.integers.recurrent import IntegerLSTM
from tests.integers.nets import error


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("layers", "bidirectional", "bias"), [(1, False, True), (2, True, False)])
def test_close_to_torch(batch_first, layers, bidirectional, bias, tmp_path):
    torch.manual_seed(0)
    lstm = nn.LSTM(5, 6, layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional).eval()
    got = quantize_int8(lstm, static=False)
    assert isinstance(got.model, IntegerLSTM)
    state = tuple(torch.randn(layers * (1 + bidirectional), 3, 6) for _ in range(2))
    for args in ((torch.randn(3, 3, 5),), (torch.randn(3, 3, 5), state), (torch.randn(4, 5),)):
        with torch.no_grad():
            y, final = got.model(*args)
            expected, last = lstm(*args)
        assert y.shape == expected.shape and error(y, expected) < 0.05
        assert all(a.shape == b.shape and error(a, b) < 0.05 for a, b in zip(final, last, strict=True))
    save(got.compressed(), tmp_path / "lstm.tsr")
    with torch.no_grad():
        x = torch.randn(3, 3, 5)
        assert torch.equal(load_int8(tmp_path / "lstm.tsr", lstm)(x)[0], got.model(x)[0])


def test_errors():
    lstm = nn.LSTM(3, 4)
    with pytest.raises(UsageError, match="static=False"):
        quantize_int8(lstm, [torch.randn(2, 2, 3)])
    with pytest.raises(UsageError, match="projections"):
        quantize_int8(nn.LSTM(3, 4, proj_size=2), static=False)
    packed = nn.utils.rnn.pack_sequence([torch.randn(2, 3)])
    with pytest.raises(MismatchError, match="pad packed sequences"):
        quantize_int8(lstm, static=False).model(packed)
