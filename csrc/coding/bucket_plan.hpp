// Which scales and tables a stream gets, by an estimate of what it costs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "coding/bucket_model.hpp"
#include "coding/symbols.hpp"

namespace tersor {

// How indices say what their magnitude is.
struct Magnitude {
    // Indices are themselves logarithms, four an octave; else the magnitude is the distance from
    // `centre`.
    bool logarithmic;
    std::uint32_t centre;
};

// The model that costs least, and the bytes that the stream takes with it, about.
struct BucketPlan {
    BucketModel model;
    std::size_t bytes = 0;
};

// Plans a stream of shape.elements() symbols, at least one. False if the indices span more than
// kMaxBucketAlphabet or there is but one row.
template <typename T>
[[nodiscard]] bool plan_buckets(std::span<const T> symbols, SymbolKind kind,
                                const MatrixShape& shape, Magnitude magnitude, BucketPlan& plan);

}  // namespace tersor
