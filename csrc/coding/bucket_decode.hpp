// The lanes of bucketed rANS: scalar, and by gathers. Both give the same symbols.
#pragma once

#include <span>

#include "coding/bitio.hpp"
#include "coding/bucket_model.hpp"
#include "coding/symbols.hpp"

namespace tersor {

// Fills `symbols` from states and words, exactly all of `payload`; false if they are malformed.
template <typename T>
[[nodiscard]] bool decode_bucket_lanes(ByteView payload, std::span<T> symbols, SymbolKind kind,
                                       const BucketModel& model);

}  // namespace tersor
