// Words to byte planes and back: a transform that gathers what is alike, then byte p of all words,
// the most significant first.
//
// Legend: N words, P bytes a word.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tersor {

// rotate: left by one, so that a float's sign goes to the bottom and its exponent fills the top
// plane. zigzag: 0, -1, 1, -2, ... become 0, 1, 2, 3, ...
enum class WordTransform { none = 0, rotate = 1, zigzag = 2 };

// `words`: N words of 1, 2, 4 or 8 bytes (native order); `planes`: P x N bytes.
template <typename Word>
void split_planes(const Word* words, std::size_t count, WordTransform transform,
                  std::uint8_t* planes);

// The inverse.
template <typename Word>
void merge_planes(const std::uint8_t* planes, std::size_t count, WordTransform transform,
                  Word* words);

}  // namespace tersor
