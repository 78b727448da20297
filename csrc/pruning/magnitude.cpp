#include "pruning/magnitude.hpp"

#include <array>
#include <bit>
#include <cstdint>

namespace tersor {
namespace {

// The bits of a magnitude, as an integer, are in the order of the magnitudes.
uint32_t key(float value) { return std::bit_cast<uint32_t>(value) & 0x7fffffffu; }

struct Threshold {
    uint32_t key;  // of the count-th largest magnitude
    size_t ties;   // how many of the values with this key belong to the count largest
};

// Radix selection: digits from the top, 11 + 10 + 10 bits, each pass among those that share the
// digits so far.
Threshold select(const float* values, size_t size, size_t count) {
    Threshold threshold{0, count};
    uint32_t known = 0;  // bits of the key that are settled
    for (const int shift : {20, 10, 0}) {
        const uint32_t digits = shift == 20 ? 0x7ffu : 0x3ffu;
        std::array<size_t, 2048> histogram{};
        for (size_t i = 0; i < size; ++i) {
            const uint32_t k = key(values[i]);
            if ((k & known) == threshold.key) ++histogram[k >> shift & digits];
        }
        uint32_t digit = digits;
        while (digit > 0 && histogram[digit] < threshold.ties) threshold.ties -= histogram[digit--];
        threshold.key |= digit << shift;
        known |= digits << shift;
    }
    return threshold;
}

}  // namespace

void keep_largest(const float* values, size_t size, size_t count, bool* keep) {
    if (count == 0) {
        for (size_t i = 0; i < size; ++i) keep[i] = false;
        return;
    }
    Threshold threshold = select(values, size, count);
    for (size_t i = 0; i < size; ++i) {
        const uint32_t k = key(values[i]);
        keep[i] = k > threshold.key;
        if (k == threshold.key && threshold.ties > 0) {
            keep[i] = true;
            --threshold.ties;
        }
    }
}

}  // namespace tersor
