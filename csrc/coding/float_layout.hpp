// The head of a blob of floats: how its words are cut, and which rows have low bits that are zero.
//
// Legend: a *class* is a set of rows whose mantissas all end in at least `zeros` zeros. A *run* is
// consecutive rows of one class.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "coding/bitio.hpp"
#include "coding/float_fields.hpp"

namespace tersor {

inline constexpr std::size_t kMaxFloatClasses = 4;

// Symbols of tops of more than 8 bits: 0 escapes (the top follows elsewhere), 1 is top 0,
// kFirstTop + j is top first + j.
inline constexpr std::uint32_t kEscape = 0;
inline constexpr std::uint32_t kZeroTop = 1;
inline constexpr std::uint32_t kFirstTop = 2;
inline constexpr std::uint32_t kWindow = 256 - kFirstTop;

struct FloatLayout {
    unsigned top_bits = 8;                  // 5..13, below the bits of a word
    std::uint32_t first_top = 0;            // if mapped: at most 2^top_bits - kWindow
    std::vector<std::uint8_t> zeros = {0};  // of each class; 1, 2 or 4 of them
    std::vector<std::uint8_t> class_of;     // of each row; empty if there is one class

    bool mapped() const noexcept { return top_bits > 8; }
    TopMap map() const noexcept {
        if (!mapped()) return {top_bits, 0, 0};
        return {top_bits, first_top - kFirstTop, kZeroTop};
    }
};

// A byte: top_bits in the low 4 bits, log2 of the number of classes in bits 4-5. Then first_top
// (two bytes, if mapped), the classes' zeros, a byte each, and the class of each row in 1 or 2
// bits, if there are more than one.
void write_layout(Bytes& out, const FloatLayout& layout);

// Reads what `write_layout` wrote for words of `word_bits` bits in `rows` rows and advances `in`;
// false if it is malformed.
[[nodiscard]] bool read_layout(ByteView& in, unsigned word_bits, std::size_t rows,
                               FloatLayout& layout);

struct Run {
    std::size_t begin;  // first row
    std::size_t end;
    std::uint8_t cls;
};
// The runs of a layout, in order; one of `rows` rows if it has one class.
std::vector<Run> runs_of(const FloatLayout& layout, std::size_t rows);

}  // namespace tersor
