#include "coding/bucket_rans.hpp"

#include <array>
#include <memory>
#include <vector>

#include "coding/bucket_decode.hpp"
#include "coding/rans.hpp"
#include "coding/rans_state.hpp"

namespace tersor {
namespace {

// (tables, kMaxBucketAlphabet)
std::vector<EncodeStep> steps_of(const BucketModel& model) {
    std::vector<EncodeStep> steps(model.frequencies.size() * kMaxBucketAlphabet);
    for (std::size_t t = 0; t < model.frequencies.size(); ++t) {
        make_steps(model.frequencies[t], model.scale_bits, steps.data() + t * kMaxBucketAlphabet);
    }
    return steps;
}

// Encodes backwards from `end`, before which there are two bytes a symbol and four a lane, and two
// to spare; returns where the coded bytes start.
template <typename T>
std::uint8_t* encode_lanes(std::span<const T> symbols, SymbolKind kind, const BucketModel& model,
                           std::uint8_t* end) {
    constexpr std::size_t kPiece = 4096;
    const std::vector<EncodeStep> steps = steps_of(model);
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
            std::uint32_t& x = states[(i - 1) & (lanes - 1)];
            x = encode_symbol(x, step, model.scale_bits, out);
        }
    }
    return store_states(std::span(states).first(lanes), out);
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
