// rANS for few symbols with tables in registers: states of 16 bits, frequencies that sum to 256,
// byte-wise renormalisation (Duda 2013; interleaving after Giesen 2014; slots by the alias method,
// see register_table.hpp).
//
// A blob of 8-bit symbols: a byte, ids - 1 (bits 0-4) and 0x20 if there is an escape; a byte for
// each coded symbol, its index, ascending; a byte for each id but the last, its frequency. With an
// escape: the number of escaped symbols, the bytes of their stream (four bytes each) and the
// stream, a blob of rans.hpp. Then the low bytes of the states of all L lanes, their high bytes,
// and the bytes that lanes take whenever their states fall below 2^8. Symbol i belongs to lane i
// mod L, L being a function of the count; lanes take bytes in the order of their symbols.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "coding/bitio.hpp"
#include "coding/register_table.hpp"
#include "coding/symbols.hpp"

namespace tersor {

// The most lanes; their numbers are powers of two from 32 on.
inline constexpr unsigned kRegisterLanes = 128;

// Lanes of a stream of `count` symbols: each costs two bytes and buys speed.
constexpr unsigned register_lanes(std::size_t count) noexcept {
    return count < (1u << 15) ? 32 : count < (1u << 18) ? 64 : kRegisterLanes;
}

// Encodes at least one symbol with the table that `plan_register` made from their histogram.
// kind.bits <= 8.
Bytes register_encode(std::span<const std::uint8_t> symbols, SymbolKind kind,
                      const RegisterPlan& plan);
Bytes register_encode(std::span<const std::uint8_t> symbols, SymbolKind kind);

// Fills `symbols` from exactly all bytes of `blob`; false if the blob is malformed.
[[nodiscard]] bool register_decode(ByteView blob, std::span<std::uint8_t> symbols, SymbolKind kind);

// What decoders look up. Per bucket: the first slot that is not its own (for a bucket without any:
// its last slot, with an alias that says the same), the alias' id, and what leads from such a slot
// to its rank; per id: its frequency and symbol. Per slot, for one lane at a time: frequency, rank
// and symbol.
struct RegisterLookup {
    unsigned buckets = 16;
    alignas(32) std::array<std::uint8_t, kMaxIds> alias_slot{};
    alignas(32) std::array<std::uint8_t, kMaxIds> alias{};
    alignas(32) std::array<std::uint8_t, kMaxIds> alias_base{};
    alignas(32) std::array<std::uint8_t, kMaxIds> frequencies{};
    alignas(32) std::array<std::uint8_t, kMaxIds> symbols{};
    struct Slot {
        std::uint8_t frequency;
        std::uint8_t rank;
        std::uint8_t symbol;
        std::uint8_t unused;
    };
    std::array<Slot, kSlots> slots{};
};

struct RegisterStates {
    unsigned lanes = kRegisterLanes;
    alignas(64) std::array<std::uint8_t, kRegisterLanes> low{};
    alignas(64) std::array<std::uint8_t, kRegisterLanes> high{};
};

// Decodes a blob piece by piece, so that a caller can use symbols while they are in the cache:
//     RegisterDecoder decoder;
//     bool good = decoder.open(blob, count, kind);
//     while (good && ...) good = decoder.decode(piece);
//     good = good && decoder.finished();
// It refers to the bytes of `blob`, which must outlive it.
class RegisterDecoder {
  public:
    RegisterDecoder() = default;
    RegisterDecoder(const RegisterDecoder&) = delete;  // it points into itself
    RegisterDecoder& operator=(const RegisterDecoder&) = delete;

    // Reads the head of the blob of `count` symbols; false if it is malformed.
    [[nodiscard]] bool open(ByteView blob, std::size_t count, SymbolKind kind);

    // The next symbols: a multiple of kRegisterLanes unless they are the last ones. False if the
    // blob is malformed; `out` then holds anything.
    [[nodiscard]] bool decode(std::span<std::uint8_t> out);

    // Whether all symbols are decoded, all bytes are used and all states are where encoders start.
    [[nodiscard]] bool finished() const noexcept;

  private:
    bool open_escapes(ByteView& in, std::size_t count, SymbolKind kind);
    bool decode_piece(std::span<std::uint8_t> out);
    void enter_tail();

    RegisterLookup lookup_;
    RegisterStates states_;
    std::vector<std::uint8_t> escapes_;  // with zeros behind them
    const std::uint8_t* next_escape_ = nullptr;
    const std::uint8_t* end_of_escapes_ = nullptr;
    std::uint8_t placeholder_ = 0;
    std::size_t left_ = 0;  // symbols to decode
    const std::uint8_t* next_ = nullptr;
    const std::uint8_t* end_ = nullptr;
    // The last bytes of the blob with zeros behind them.
    std::array<std::uint8_t, 2 * kRegisterLanes> tail_{};
    bool in_tail_ = false;
    bool good_ = false;
};

}  // namespace tersor
