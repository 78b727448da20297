#include "coding/bucket_rans.hpp"

#include <array>
#include <bit>
#include <memory>
#include <vector>

#include "coding/bucket_decode.hpp"
#include "coding/rans.hpp"
#include "coding/rans_decode.hpp"

namespace tersor {
namespace {

// How to encode one symbol: x -> (x / f) * 2^scale + x % f + start, the division as a
// multiplication (exact for x < 2^31).
struct EncodeStep {
    std::uint64_t reciprocal = 0;  // ceil(2^(31 + shift) / f)
    std::uint32_t limit = 0;       // states from here on give a word away first
    std::uint32_t start = 0;
    std::uint16_t complement = 0;  // 2^scale - f
    std::uint16_t shift = 0;
};

EncodeStep make_step(std::uint32_t f, std::uint32_t start, unsigned scale_bits) {
    EncodeStep step;
    const unsigned shift = static_cast<unsigned>(std::bit_width(f - 1));
    step.reciprocal = ((std::uint64_t{1} << (shift + 31)) + f - 1) / f;
    step.limit = f << (31 - scale_bits);
    step.start = start;
    step.complement = static_cast<std::uint16_t>((1u << scale_bits) - f);
    step.shift = static_cast<std::uint16_t>(shift + 31);
    return step;
}

// (tables, kMaxBucketAlphabet)
std::vector<EncodeStep> make_steps(const BucketModel& model) {
    std::vector<EncodeStep> steps(model.frequencies.size() * kMaxBucketAlphabet);
    for (std::size_t t = 0; t < model.frequencies.size(); ++t) {
        std::uint32_t start = 0;
        for (std::size_t i = 0; i < kMaxBucketAlphabet; ++i) {
            const std::uint32_t f = model.frequencies[t][i];
            if (f > 0) steps[t * kMaxBucketAlphabet + i] = make_step(f, start, model.scale_bits);
            start += f;
        }
    }
    return steps;
}

inline void store_le16(std::uint8_t* to, std::uint32_t value) noexcept {
    to[0] = static_cast<std::uint8_t>(value);
    to[1] = static_cast<std::uint8_t>(value >> 8);
}

// Encodes backwards from `end`, before which there are two bytes a symbol and four a lane, and two
// to spare; returns where the coded bytes start.
template <typename T>
std::uint8_t* encode_lanes(std::span<const T> symbols, SymbolKind kind, const BucketModel& model,
                           std::uint8_t* end) {
    constexpr std::size_t kPiece = 4096;
    const std::vector<EncodeStep> steps = make_steps(model);
    const TableMap tables(model);
    const unsigned lanes = rans_lanes(symbols.size());
    std::array<std::uint32_t, 32> states;
    states.fill(kRansLow);
    std::array<std::uint16_t, kPiece> offsets;
    std::uint8_t* out = end;
    for (std::size_t i = symbols.size(); i > 0;) {
        const std::size_t begin = (i - 1) / kPiece * kPiece;
        tables.fill(begin, std::span(offsets).first(i - begin));
        for (; i > begin; --i) {
            const std::size_t table = offsets[i - 1 - begin] >> model.scale_bits;
            const EncodeStep& step =
                steps[table * kMaxBucketAlphabet + (to_index(symbols[i - 1], kind) - model.first)];
            std::uint32_t x = states[(i - 1) & (lanes - 1)];
            // Always store, move only if needed: no branch to mispredict.
            store_le16(out - 2, x);
            const std::uint32_t full = 0u - static_cast<std::uint32_t>(x >= step.limit);
            out -= full & 2;
            x >>= full & 16;
            const std::uint32_t quotient =
                static_cast<std::uint32_t>((x * step.reciprocal) >> step.shift);
            states[(i - 1) & (lanes - 1)] = x + step.start + quotient * step.complement;
        }
    }
    for (unsigned lane = lanes; lane-- > 0;) {
        out -= 4;
        store_le16(out, states[lane]);
        store_le16(out + 2, states[lane] >> 16);
    }
    return out;
}

template <typename T>
Bytes encode_planned(std::span<const T> symbols, SymbolKind kind, const BucketModel& model) {
    Bytes blob;
    write_bucket_model(blob, model);
    const std::size_t capacity = 2 * symbols.size() + 4 * 32 + 2;
    const std::unique_ptr<std::uint8_t[]> buffer(new std::uint8_t[capacity]);
    std::uint8_t* const end = buffer.get() + capacity;
    blob.insert(blob.end(), encode_lanes(symbols, kind, model, end), end);
    return blob;
}

}  // namespace

Bytes bucket_encode_planned(std::span<const std::uint8_t> symbols, SymbolKind kind,
                            const BucketModel& model) {
    return encode_planned(symbols, kind, model);
}

Bytes bucket_encode_planned(std::span<const std::uint16_t> symbols, SymbolKind kind,
                            const BucketModel& model) {
    return encode_planned(symbols, kind, model);
}

template <typename T>
Bytes bucket_encode(std::span<const T> symbols, SymbolKind kind, const MatrixShape& shape,
                    Magnitude magnitude, std::size_t limit) {
    BucketPlan plan;
    if (!plan_buckets(symbols, kind, shape, magnitude, plan) || plan.bytes > limit) return {};
    return encode_planned(symbols, kind, plan.model);
}

template <typename T>
bool bucket_decode(ByteView blob, std::span<T> symbols, SymbolKind kind, const MatrixShape& shape) {
    BucketModel model;
    return !symbols.empty() && symbols.size() == shape.elements() &&
           read_bucket_model(blob, kind, shape, model) &&
           decode_bucket_lanes(blob, symbols, kind, model);
}

template Bytes bucket_encode<std::uint8_t>(std::span<const std::uint8_t>, SymbolKind,
                                           const MatrixShape&, Magnitude, std::size_t);
template Bytes bucket_encode<std::uint16_t>(std::span<const std::uint16_t>, SymbolKind,
                                            const MatrixShape&, Magnitude, std::size_t);
template bool bucket_decode<std::uint8_t>(ByteView, std::span<std::uint8_t>, SymbolKind,
                                          const MatrixShape&);
template bool bucket_decode<std::uint16_t>(ByteView, std::span<std::uint16_t>, SymbolKind,
                                           const MatrixShape&);

}  // namespace tersor
