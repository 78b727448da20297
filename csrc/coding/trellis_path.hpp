// A row's path through a trellis: what the states know of codes q and of the indices k that files
// hold.
//
// A row starts in state 0. Where the state offers the even grid q = 2k, else q = 2k - sgn k; with
// one state there is no trellis and q = k. The parity of k leads to the next state; weights that
// are not kept leave the state as it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "coding/trellis_states.hpp"

namespace tersor {

class TrellisPath {
  public:
    // `states`: 1, 4 or 8.
    explicit TrellisPath(unsigned states) noexcept
        : states_(trellis_machine(static_cast<int>(states)).data()), doubled_(states > 1) {}

    void start_row() noexcept { state_ = 0; }
    unsigned state() const noexcept { return state_; }
    // Whether codes are about twice their indices.
    bool is_doubled() const noexcept { return doubled_; }
    // Whether codes are odd or 0.
    bool is_odd() const noexcept { return states_[state_].is_odd(); }
    void advance(std::int32_t index) noexcept { state_ = states_[state_].next[index & 1]; }

    std::int32_t code(std::int32_t index) const noexcept {
        if (!doubled_) return index;
        return 2 * index - (is_odd() ? (index > 0) - (index < 0) : 0);
    }
    // The index of a code; empty if the state does not offer it.
    std::optional<std::int32_t> index(std::int32_t code) const noexcept {
        if (!doubled_) return code;
        if (code == 0) return 0;
        if (((code & 1) != 0) != is_odd()) return std::nullopt;
        return is_odd() ? (code + (code > 0 ? 1 : -1)) / 2 : code / 2;
    }

  private:
    const TrellisState* states_;
    bool doubled_;
    unsigned state_ = 0;
};

// T is int8_t or int16_t; `kept` is empty or has a byte for every code, 0 where it is pruned.

// Indices of codes whose rows have `row_length`; those of pruned weights are 0. The position of the
// first code that is not on the path, or nothing.
template <typename T>
std::optional<std::size_t> trellis_indices(std::span<const T> codes, std::size_t row_length,
                                           unsigned states, std::span<const std::uint8_t> kept,
                                           std::span<T> indices);

// Codes in place of indices; those of pruned weights are 0. False if one is out of the range of
// signed codes of `bits`.
template <typename T>
[[nodiscard]] bool trellis_codes(std::span<T> indices, std::size_t row_length, unsigned states,
                                 unsigned bits, std::span<const std::uint8_t> kept);

}  // namespace tersor
