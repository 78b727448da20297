// Context-adaptive coding of symbols and masks, and the state that streams hand on.
//
// A symbol becomes binary decisions. Signed symbols: is it zero; its sign; the bit width of its
// magnitude, in unary; the magnitude's bits below the top one. Unsigned symbols: the bits of the
// index from the top, each in the context of those above it. The contexts are scales: magnitudes
// (unsigned: distances from the middle of the range) nearby and on running average, along the row
// and in the column of the matrix rows x (columns x kernel). Masks: one decision, in the context of
// the neighbouring bits.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <span>

#include "coding/adaptive_model.hpp"
#include "coding/bitio.hpp"
#include "coding/symbols.hpp"

namespace tersor {

// Where neighbours are: the element above is `row_length` back, the same kernel position of the
// previous column `kernel` back. Both at least 1.
struct Neighbourhood {
    std::size_t row_length;
    std::size_t kernel;
};

// What has been learned, by kind of stream. Models are made when first used.
struct CodingState {
    static constexpr std::size_t kSlots = 32;

    std::array<std::optional<MixedModel>, 17> signed_symbols;  // by bits
    std::array<std::optional<MixedModel>, kSlots>
        unsigned_symbols;  // by slot, which the caller chooses
    std::optional<MixedModel> mask;
};

// Encodes symbols within the range of `kind`, unsigned ones of at most 8 bits. `slot` < kSlots
// selects the model of unsigned symbols.
template <typename T>
Bytes adaptive_encode(std::span<const T> symbols, SymbolKind kind, Neighbourhood near,
                      std::size_t slot, CodingState& state);

// Fills `symbols` from exactly all bytes of `blob`; false if the blob is malformed.
template <typename T>
[[nodiscard]] bool adaptive_decode(ByteView blob, std::span<T> symbols, SymbolKind kind,
                                   Neighbourhood near, std::size_t slot, CodingState& state);

// The same for masks: bytes 0 and 1.
Bytes mask_encode(std::span<const std::uint8_t> mask, Neighbourhood near, CodingState& state);
[[nodiscard]] bool mask_decode(ByteView blob, std::span<std::uint8_t> mask, Neighbourhood near,
                               CodingState& state);

}  // namespace tersor
