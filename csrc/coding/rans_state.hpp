// The state of a lane of interleaved rANS: what encoders and decoders of every table layout do with
// it.
//
// States live in [2^15, 2^31) between symbols: below 2^31, division by multiplication is exact and
// signed comparisons work. Encoders start at kRansLow, so decoders must end there.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "coding/bitio.hpp"

namespace tersor {

inline constexpr std::uint32_t kRansLow = 1u << 15;

// How to encode one symbol of frequency f: x -> (x / f) * 2^scale + x % f + start, the division as
// a multiplication (Alverson 1991; exact for x < 2^31).
struct EncodeStep {
    std::uint32_t reciprocal;  // of f
    std::uint32_t bias;
    std::uint32_t f;
    std::uint32_t shift;
};

inline EncodeStep make_step(std::uint32_t f, std::uint32_t start, unsigned scale_bits) {
    // x * (2^32 - 1) / 2^32 = x - 1 for the quotient by 1; the bias makes up for the missing one.
    if (f == 1) return {~0u, start + (1u << scale_bits) - 1, f, 0};
    const unsigned shift = static_cast<unsigned>(std::bit_width(f - 1));
    const std::uint64_t reciprocal = ((std::uint64_t{1} << (shift + 31)) + f - 1) / f;
    return {static_cast<std::uint32_t>(reciprocal), start, f, shift - 1};
}

// steps[i] is that of frequencies[i]; symbols of frequency 0 have none.
inline void make_steps(std::span<const std::uint32_t> frequencies, unsigned scale_bits,
                       EncodeStep* steps) {
    std::uint32_t start = 0;
    for (std::size_t i = 0; i < frequencies.size(); ++i) {
        if (frequencies[i] > 0) steps[i] = make_step(frequencies[i], start, scale_bits);
        start += frequencies[i];
    }
}

// The state behind a symbol. Writes a word before `out` and moves it if the word counts.
inline std::uint32_t encode_symbol(std::uint32_t x, const EncodeStep& step, unsigned scale_bits,
                                   std::uint8_t*& out) noexcept {
    // Always store, move only if needed: no branch to mispredict.
    store_le16(out - 2, x);
    const bool full = x >= step.f << (31 - scale_bits);
    out -= 2 * full;
    x >>= 16 * full;
    const std::uint32_t quotient =
        static_cast<std::uint32_t>((static_cast<std::uint64_t>(x) * step.reciprocal) >> 32) >>
        step.shift;
    return x + step.bias + quotient * ((1u << scale_bits) - step.f);
}

// Writes the last states of an encoder before `out`; returns where they start.
inline std::uint8_t* store_states(std::span<const std::uint32_t> states,
                                  std::uint8_t* out) noexcept {
    for (std::size_t lane = states.size(); lane-- > 0;) {
        out -= 4;
        store_le16(out, states[lane]);
        store_le16(out + 2, states[lane] >> 16);
    }
    return out;
}

// The first states of a decoder; false if there are too few bytes or one is out of range.
[[nodiscard]] inline bool load_states(ByteView payload, std::span<std::uint32_t> states) noexcept {
    if (payload.size() < 4 * states.size()) return false;
    for (std::size_t lane = 0; lane < states.size(); ++lane) {
        states[lane] = load_le32(payload.data() + 4 * lane);
        if (states[lane] < kRansLow || states[lane] >> 31) return false;
    }
    return true;
}

// A state that lost a symbol, refilled by the next word if it is too low.
inline std::uint32_t refill(std::uint32_t state, const std::uint8_t*& next) noexcept {
    // All ones if the state needs a word: arithmetic, because a branch would be a coin toss.
    const std::uint32_t low = 0u - static_cast<std::uint32_t>(state < kRansLow);
    const std::uint32_t x = state << (low & 16) | (load_le16(next) & low);
    next += low & 2;
    return x;
}

// Whether all states are back where the encoder started.
inline bool at_start(std::span<const std::uint32_t> states) noexcept {
    return std::all_of(states.begin(), states.end(), [](std::uint32_t x) { return x == kRansLow; });
}

}  // namespace tersor
