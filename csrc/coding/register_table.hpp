// The model of register-table rANS: at most 32 coded symbols with frequencies that sum to 256, laid
// out over the slots 0 .. 255 by the alias method (Walker 1977, Vose 1991), so that a slot's symbol
// is found by one comparison and lookups in tables of 16 or 32 bytes, which fit into registers.
//
// Legend: an *id* numbers the coded symbols 0 .. n-1; if there is an *escape* it is the last id and
// stands for all symbols that have none.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "coding/bitio.hpp"
#include "coding/symbols.hpp"

namespace tersor {

inline constexpr unsigned kMaxIds = 32;
inline constexpr unsigned kSlots = 256;

// symbols[id] is an index of the stream's kind, ascending; that of the escape is the lowest index
// that has no id: decoders write it where a true symbol has to be patched in.
struct RegisterTable {
    unsigned ids = 0;  // 2..32
    bool escape = false;
    std::array<std::uint8_t, kMaxIds> symbols{};
    std::array<std::uint8_t, kMaxIds> frequencies{};  // 1..255 each

    unsigned escape_id() const noexcept { return ids - 1; }
};

// Buckets of `width` slots. The first own[b] slots of bucket b belong to id b, with the ranks
// 0 .. own[b] - 1 among its slots; the rest to id alias[b], from rank first_rank[b] on.
struct AliasLayout {
    unsigned buckets;  // 16 or 32
    unsigned width;    // 256 / buckets
    std::array<std::uint8_t, kMaxIds> own{};
    std::array<std::uint8_t, kMaxIds> alias{};
    std::array<std::uint8_t, kMaxIds> first_rank{};
};

// A function of the frequencies alone: both sides build it.
AliasLayout lay_out(const RegisterTable& table) noexcept;

struct RegisterPlan {
    RegisterTable table;
    std::uint64_t escaped = 0;  // symbols without an id
    std::uint64_t cost = 0;     // about, of the whole blob, in 2^-16 bits
};

// The table that costs least for these counts of indices (2^bits of them, bits <= 8, at least one
// not zero): frequencies rounded to the least coded length, rare symbols escaped where that pays.
RegisterPlan plan_register(std::span<const std::uint64_t> counts, SymbolKind kind);

void write_register_table(Bytes& out, const RegisterTable& table);

// Reads what `write_register_table` wrote and advances `in`; false if it is malformed.
[[nodiscard]] bool read_register_table(ByteView& in, SymbolKind kind, RegisterTable& table);

}  // namespace tersor
