"""Other people's coders, behind the one call that the benchmarks make: bytes, and decoding into memory.

nncodec's package imports torchvision; its coder alone does not need it: `pip install --no-deps nncodec==2.1.3`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Integers = Sequence[NDArray[np.int32]]
"""Tensors of (rows, row length)."""


class DeepCabac:
    """nncodec 2.1.3's entropy coder for given integers: a stream a tensor, as its files have them, without headers.

    The settings of each tensor are found by trial: the smallest stream counts.
    """

    name = "nncodec DeepCABAC"
    _UNARY = 10  # nncodec's default length of the unary part
    _SCANS = (0, 1, 2, 3)  # by rows; by square blocks of 8, 16, 32

    def __init__(self) -> None:
        from nncodec.extensions import deepCABAC

        self._core = deepCABAC
        self._off = (deepCABAC.HdspMode.AlwaysOff, np.zeros(2, np.int8))

    def encode(self, tensors: Integers) -> list[tuple[bytes, int]]:
        """Each tensor's bytes with the scan order that `decode` needs."""
        return [
            min(
                ((self._stream(tensor, scan, fit), scan) for scan in self._SCANS for fit in (0, 1)),
                key=lambda stream: len(stream[0]),
            )
            for tensor in tensors
        ]

    def _stream(self, tensor: NDArray[np.int32], scan: int, fit: int) -> bytes:
        encoder = self._core.Encoder()
        encoder.initCtxModels(self._UNARY, fit)
        dead = (~tensor.any(axis=1)).astype(np.int32)
        encoder.encodeLayer(tensor, 0, scan, 0, 0, int(dead.any()), dead, *self._off, 0, 0)
        return encoder.finish().tobytes()

    def decode(self, streams: list[tuple[bytes, int]], out: Integers) -> None:
        """Fills `out`."""
        for (blob, scan), tensor in zip(streams, out, strict=True):
            decoder = self._core.Decoder()
            decoder.setStream(np.frombuffer(blob, np.uint8))
            decoder.initCtxModels(self._UNARY)
            decoder.decodeLayer(tensor, 0, scan, 0, 0, *self._off, 0, 0)
            decoder.finish()


class Zstd1:
    """zstd -1 over bytes: on data without repetitions, this is its Huffman coder Huff0."""

    name = "zstd -1 (Huff0)"

    def __init__(self) -> None:
        import zstandard

        self._compressor = zstandard.ZstdCompressor(level=1)
        self._decompressor = zstandard.ZstdDecompressor()

    def encode(self, symbols: NDArray[np.uint8]) -> bytes:
        return self._compressor.compress(symbols)

    def decode(self, blob: bytes, out: NDArray[np.uint8]) -> None:
        source, offset = self._decompressor.stream_reader(blob), 0
        while count := source.readinto(memoryview(out)[offset:]):
            offset += count


class ConstrictionAns:
    """constriction's range ANS with the exact frequencies of the stream."""

    name = "constriction ANS"

    def encode(self, symbols: NDArray[np.uint8]) -> bytes:
        import constriction

        counts = np.bincount(symbols).astype(np.float64)
        self._model = constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(symbols.astype(np.int32), self._model)
        return coder.get_compressed().tobytes()

    def decode(self, blob: bytes, out: NDArray[np.uint8]) -> None:
        import constriction

        coder = constriction.stream.stack.AnsCoder(np.frombuffer(blob, np.uint32))
        out[:] = coder.decode(self._model, out.size)
