// Arrays of floating-point words, exact to the bit: exponents (with top bits of the mantissa) are
// coded, the rest is stored; low mantissa bits that are zero in whole rows cost nothing.
//
// A blob: the layout (see float_layout.hpp); a byte, the number of the symbols' method (1 rANS, 2
// Huffman, 10 register rANS, 11 bucketed rANS, 0 packed); the size of their blob in four bytes;
// the blob; if mapped, the number of escapes in four bytes and their tops, two bytes each. Then the
// fields (see float_fields.hpp), run by run, each run padded to a byte: all runs of the first
// class, then those of the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "coding/bitio.hpp"
#include "coding/bucket_model.hpp"

namespace tersor {

// Codes the words (16, 32 or 64 bits, shape.elements() of them, at least one); empty if that would
// not save a part worth its time. Without `small` the symbols suit decoders with tables in
// registers; with it they are those that take the fewest bytes.
template <typename Word>
Bytes float_encode(std::span<const Word> words, const MatrixShape& shape, bool small);

// Fills `words` from exactly all bytes of `blob`; false if the blob is malformed.
template <typename Word>
[[nodiscard]] bool float_decode(ByteView blob, std::span<Word> words, const MatrixShape& shape);

}  // namespace tersor
