"""What a blob can be, and what an encoder may try."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from tersor.errors import CorruptFileError, UsageError

CODERS = ("auto", "raw", "rans", "huffman", "register", "buckets", "adaptive")
PROFILES = ("small", "fast")


class CorruptStreamError(CorruptFileError):
    """A coded blob is damaged: it ends too early or too late, or holds what no encoder writes."""


class Method(IntEnum):
    """How a blob is coded: the closed registry of on-disk numbers (7 to 9 belong to the container)."""

    RAW = 0
    """Nothing coded: packed bits (symbols, masks, bool arrays) or little-endian words (other arrays)."""
    RANS = 1
    """Symbols: static frequencies, interleaved rANS."""
    HUFFMAN = 2
    """Symbols: canonical Huffman code."""
    ADAPTIVE = 3
    """Symbols: context mixing and binary arithmetic coding; reads and changes the `State`."""
    PLANES = 4
    """Arrays: byte planes, each coded by itself."""
    MASK_BITS = 5
    """Masks: as ADAPTIVE, of symbols of 1 bit; reads and changes the `State`."""
    MASK_RUNS = 6
    """Masks: run lengths as symbols."""
    REGISTER = 10
    """8-bit symbols: static frequencies of at most 32, interleaved rANS with its tables in registers."""
    BUCKETS = 11
    """Symbols: static frequencies by the scales of row and column, interleaved rANS."""
    FLOATS = 12
    """Arrays of floats: coded exponents, stored mantissas, flags for narrower rows."""


SYMBOL_METHODS = (Method.RAW, Method.RANS, Method.HUFFMAN, Method.ADAPTIVE, Method.REGISTER, Method.BUCKETS)


@dataclass(frozen=True)
class CodingConfig:
    """What the encoder tries. Decoders need none of it.

    coder: "auto" keeps the smallest of all that the profile allows; another name of CODERS is used wherever
           it applies (content that a coder cannot shrink is stored raw).
    profile: "small" tries everything; "fast" leaves the adaptive coder out, whose decoder is slow, and takes the
             coder with tables in registers, whose decoder is the fastest, where it costs at most 1/128 more.
    """

    coder: str = "auto"
    profile: str = "small"

    def __post_init__(self) -> None:
        """Raises UsageError for a name that is not in CODERS or PROFILES."""
        if self.coder not in CODERS:
            raise UsageError(f"coder: expected one of {', '.join(CODERS)}, got {self.coder!r}")
        if self.profile not in PROFILES:
            raise UsageError(f"profile: expected one of {', '.join(PROFILES)}, got {self.profile!r}")

    @property
    def tries_adaptive(self) -> bool:
        """Whether the adaptive coder is among the candidates."""
        return self.coder == "adaptive" or (self.coder == "auto" and self.profile == "small")
