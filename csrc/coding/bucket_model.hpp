// Static models by scale: symbols whose row, channel and kernel position have similar magnitudes
// share a frequency table.
//
// Legend: R rows, C channels (columns of the geometry), K kernel positions; a row has C * K
// symbols. Scales are logarithms in steps that the encoder chose; those of a symbol's row, channel
// and position add up to its *context*; runs of contexts share a table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "coding/bitio.hpp"
#include "coding/symbols.hpp"

namespace tersor {

struct MatrixShape {
    std::size_t rows;
    std::size_t channels;
    std::size_t kernel;

    std::size_t row_length() const noexcept { return channels * kernel; }
    std::size_t elements() const noexcept { return rows * channels * kernel; }
};

inline constexpr std::size_t kMaxBucketTables = 16;
inline constexpr std::uint8_t kMaxScale = 31;  // of one row, channel or position
inline constexpr unsigned kMinBucketBits = 8;
inline constexpr unsigned kMaxBucketBits = 12;
inline constexpr std::uint32_t kMaxBucketAlphabet = 256;

// Scales, 0..kMaxScale each. Columns have their own (`by_column`; then channels means columns), or
// the sum of their channel's and their position's.
struct Scales {
    bool by_column = true;
    std::vector<std::uint8_t> rows;       // R
    std::vector<std::uint8_t> channels;   // C, or C * K if by_column
    std::vector<std::uint8_t> positions;  // K, or a zero if by_column

    std::size_t row_length() const noexcept { return channels.size() * positions.size(); }
    unsigned column(std::size_t j) const noexcept {
        const std::size_t k = positions.size();
        return channels[j / k] + positions[j % k];
    }
    // One more than the largest sum that these can have.
    std::size_t contexts() const noexcept;
};

// The model of one stream. Table t has `frequencies[t]`, kMaxBucketAlphabet of them, one for each
// index from `first` on, which sum to 2^scale_bits.
struct BucketModel {
    Scales scales;
    std::uint32_t first = 0;  // the lowest index of the stream
    unsigned scale_bits = kMinBucketBits;
    std::vector<std::uint8_t> table_of;  // by context; never falls, each step is 1
    std::vector<std::vector<std::uint32_t>> frequencies;
};

// Bits that these take in a model.
std::size_t scale_bits(const Scales& scales);

void write_bucket_model(Bytes& out, const BucketModel& model);

// Reads what `write_bucket_model` wrote for a stream of this shape and advances `in`; false if it
// is malformed.
[[nodiscard]] bool read_bucket_model(ByteView& in, SymbolKind kind, const MatrixShape& shape,
                                     BucketModel& model);

// The tables of the symbols in their order, for coders that go through a stream in pieces.
class TableMap {
  public:
    explicit TableMap(const BucketModel& model);

    // out[i] = (table of symbol begin + i) << scale_bits.
    void fill(std::size_t begin, std::span<std::uint16_t> out) const noexcept;

  private:
    std::size_t row_length_;
    std::vector<std::uint16_t> offsets_;  // (distinct scales of rows, row_length)
    std::vector<std::uint8_t> place_;     // of each row in offsets_
};

}  // namespace tersor
