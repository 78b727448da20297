// Context-mixing arithmetic coding of quantized weights and masks, and the state that streams hand
// on.
//
// Four parts: predictors say how large the next value will be and which it is (scale_predictor,
// value_predictor); contexts turn that, with what is nearby, into small numbers (weight_contexts);
// the mixer makes one probability of the counters that they select (counter, mixer, weight_model);
// the coder turns decisions and probabilities into bytes (binary_arithmetic). This file walks over
// the tensor.
//
// A stream: what is said once (the centre of unsigned symbols; whether 0 is so common that values
// are not centred on their prediction; which rows and channels hold nothing but the centre), then a
// residual for every position that is kept and neither in such a row nor channel.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>

#include "coding/bitio.hpp"
#include "coding/symbols.hpp"
#include "coding/weight_model.hpp"

namespace tersor {

// Where neighbours are: the element above is `row_length` back, the same kernel position of the
// previous channel `kernel` back. Both at least 1. `states`: of the trellis whose indices the
// symbols are (coding/trellis_path.hpp), which are signed then; 1 for symbols as they are.
struct Neighbourhood {
    std::size_t row_length;
    std::size_t kernel;
    unsigned states = 1;
};

// What has been learned, by kind of stream: signed symbols, masks, indices of trellises of 4 and of
// 8 states, and unsigned symbols of the slot that the caller chooses. Models are made when first
// used; a copy shares them until one of both learns more.
class CodingState {
  public:
    static constexpr std::size_t kSlots = 32;
    static constexpr std::size_t kSigned = kSlots;
    static constexpr std::size_t kMask = kSlots + 1;
    static constexpr std::size_t kTrellis4 = kSlots + 2;
    static constexpr std::size_t kTrellis8 = kSlots + 3;

    WeightModel& model(std::size_t slot);

  private:
    std::array<std::shared_ptr<WeightModel>, kSlots + 4> models_;
};

// Encodes symbols within the range of `kind`, unsigned ones of at most 8 bits. `slot` < kSlots
// selects the model of unsigned symbols. `kept`: empty, or a byte for every symbol, 0 where it is
// not coded; such symbols count as 0 (the centre) for their neighbours.
template <typename T>
Bytes adaptive_encode(std::span<const T> symbols, SymbolKind kind, Neighbourhood near,
                      std::size_t slot, std::span<const std::uint8_t> kept, CodingState& state);

// Fills `symbols` where they are kept from exactly all bytes of `blob`; false if the blob is
// malformed.
template <typename T>
[[nodiscard]] bool adaptive_decode(ByteView blob, std::span<T> symbols, SymbolKind kind,
                                   Neighbourhood near, std::size_t slot,
                                   std::span<const std::uint8_t> kept, CodingState& state);

// The same for masks: bytes 0 and 1.
Bytes mask_encode(std::span<const std::uint8_t> mask, Neighbourhood near, CodingState& state);
[[nodiscard]] bool mask_decode(ByteView blob, std::span<std::uint8_t> mask, Neighbourhood near,
                               CodingState& state);

}  // namespace tersor
