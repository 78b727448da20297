// The encoding lanes of register-table rANS: scalar, and with AVX2. Both write the same bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "coding/register_rans.hpp"

namespace tersor {

// What encoders look up: x -> (x / f) * 2^8 + slot of rank x % f.
struct RegisterEncodeTable {
    struct Step {
        std::uint32_t reciprocal;  // 2^24 / f, rounded up: exact for x < 2^16
        std::uint16_t limit;       // states from here on give a byte away first
        std::uint8_t frequency;
        std::uint8_t first;  // where the slots of the id begin in `slots`
    };
    std::array<Step, 256> steps{};        // by symbol
    std::array<std::uint8_t, 256> ids{};  // by symbol
    // Whether all symbols that are not escaped lie in [window, window + 32); by symbol - window
    // their ids, and the id of all others.
    bool has_window = false;
    std::uint8_t window = 0;
    alignas(32) std::array<std::uint8_t, 32> window_ids{};
    std::uint8_t escape_id = 0;
    // By id; the reciprocals are min(2^16 / f, 2^16 - 1), rounded down.
    alignas(32) std::array<std::uint8_t, kMaxIds> frequencies{};
    alignas(32) std::array<std::uint8_t, kMaxIds> reciprocals_low{};
    alignas(32) std::array<std::uint8_t, kMaxIds> reciprocals_high{};
    alignas(32) std::array<std::uint8_t, kMaxIds> first{};
    // The slots of each id, in the order of their ranks.
    alignas(32) std::array<std::uint8_t, kSlots> slots{};
};

RegisterEncodeTable make_encode_table(const RegisterTable& table, SymbolKind kind);

// The symbols that are escaped, in order, to `out`, which has room for them.
void collect_escapes(const RegisterEncodeTable& table, std::span<const std::uint8_t> symbols,
                     std::uint8_t* out);

// Bytes that must be writable before those that are coded.
inline constexpr std::size_t kEncodeSlack = 8;

// Encodes backwards from `end`, before which there are a byte a symbol and kEncodeSlack; returns
// where the coded bytes start.
std::uint8_t* encode_register_lanes(const RegisterEncodeTable& table, RegisterStates& states,
                                    std::span<const std::uint8_t> symbols, std::uint8_t* end);

}  // namespace tersor
