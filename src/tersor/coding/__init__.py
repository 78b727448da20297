"""Numbers to bytes and back: symbols (small integers), masks, and arrays of any dtype.

Read methods.py (what a blob can be), then symbols.py, masks.py and arrays.py. Encoders give
`(Method, bytes)`; decoders fill the caller's buffer and raise `CorruptStreamError` on any damaged blob.
"""

from tersor.coding.arrays import decode_array, encode_array
from tersor.coding.masks import decode_mask, encode_mask
from tersor.coding.methods import CODERS, PROFILES, CodingConfig, CorruptStreamError, Method
from tersor.coding.state import State
from tersor.coding.symbols import (
    decode_small_numbers,
    decode_symbols,
    encode_small_numbers,
    encode_symbols,
    entropy,
)
from tersor.coding.trellis import STATES, into_codes, to_indices

__all__ = [
    "CODERS",
    "PROFILES",
    "STATES",
    "CodingConfig",
    "CorruptStreamError",
    "Method",
    "State",
    "decode_array",
    "decode_mask",
    "decode_small_numbers",
    "decode_symbols",
    "encode_array",
    "encode_mask",
    "encode_small_numbers",
    "encode_symbols",
    "entropy",
    "into_codes",
    "to_indices",
]
