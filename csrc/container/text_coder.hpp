// Text through the bit predictor and a binary arithmetic coder: the index of a .tsr file.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tersor::text {

std::vector<uint8_t> compress(std::span<const uint8_t> text);

// Fills `text`, whose size is the original's. Returns false if `blob` is not what `compress` gives
// for that text. The time is linear in `text.size()` whatever `blob` holds.
bool decompress(std::span<const uint8_t> blob, std::span<uint8_t> text);

}  // namespace tersor::text
