// The state machines of dependent quantization: 4 states as in VVC (H.266), and 8 states, which the
// tests hold to the gain that the literature reports for trellises of that size (1.0 to 1.1 dB).
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace tersor {

// A class of codes: magnitudes `offset` + a multiple of `step`. With `zero`, 0 belongs to it too.
struct CodeClass {
    int offset;
    int step;
    bool zero;
};

// The two classes that a state offers, and where each leads.
struct TrellisState {
    std::array<CodeClass, 2> classes;  // k even, k odd
    std::array<uint8_t, 2> next;

    // Whether codes are odd or 0, or even, or any.
    constexpr bool is_odd() const noexcept { return classes[0].zero; }
};

inline constexpr std::array<CodeClass, 2> kAllIntegers{{{0, 2, false}, {1, 2, false}}};
inline constexpr std::array<CodeClass, 2> kQ0{{{0, 4, false}, {2, 4, false}}};
inline constexpr std::array<CodeClass, 2> kQ1{{{3, 4, true}, {1, 4, false}}};

inline constexpr std::array<TrellisState, 1> kTrellis1{{{kAllIntegers, {0, 0}}}};
inline constexpr std::array<TrellisState, 4> kTrellis4{{
    {kQ0, {0, 2}},
    {kQ0, {2, 0}},
    {kQ1, {1, 3}},
    {kQ1, {3, 1}},
}};
inline constexpr std::array<TrellisState, 8> kTrellis8{{
    {kQ0, {0, 2}},
    {kQ1, {5, 7}},
    {kQ0, {1, 3}},
    {kQ1, {6, 4}},
    {kQ0, {2, 0}},
    {kQ1, {4, 6}},
    {kQ0, {3, 1}},
    {kQ1, {7, 5}},
}};

// The machine of 1, 4 or 8 states.
constexpr std::span<const TrellisState> trellis_machine(int states) noexcept {
    if (states == 8) return kTrellis8;
    if (states == 4) return kTrellis4;
    return kTrellis1;
}

}  // namespace tersor
