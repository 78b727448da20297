// Interleaved rANS (see rans.hpp) whose table is that of the symbol's row and column bucket.
//
// A blob: the model (see bucket_model.hpp): first index 16 bits, scale - 8 in 3 bits, log2 of the
// numbers of row, channel and position buckets in 2 bits each, 1 bit: a bucket a column, tables - 1
// in 4 bits; the buckets of rows, channels (or columns) and positions, the table of each context,
// all in as few bits as hold them; the tables (see frequency_table.hpp); padding to a byte. Then
// the lanes' states and the words, as in rans.hpp.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "coding/bitio.hpp"
#include "coding/bucket_plan.hpp"
#include "coding/symbols.hpp"

namespace tersor {

Bytes bucket_encode_planned(std::span<const std::uint8_t> symbols, SymbolKind kind,
                            const BucketModel& model);
Bytes bucket_encode_planned(std::span<const std::uint16_t> symbols, SymbolKind kind,
                            const BucketModel& model);

// Plans and encodes shape.elements() symbols, all in the range of `kind`. Nothing is coded, and the
// blob is empty, if the plan finds no model or expects more than `limit` bytes.
template <typename T>
Bytes bucket_encode(std::span<const T> symbols, SymbolKind kind, const MatrixShape& shape,
                    Magnitude magnitude,
                    std::size_t limit = std::numeric_limits<std::size_t>::max());

// Fills `symbols` from exactly all bytes of `blob`; false if the blob is malformed.
template <typename T>
[[nodiscard]] bool bucket_decode(ByteView blob, std::span<T> symbols, SymbolKind kind,
                                 const MatrixShape& shape);

}  // namespace tersor
