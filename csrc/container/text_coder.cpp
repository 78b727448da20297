#include "container/text_coder.hpp"

#include <algorithm>

#include "container/text_model.hpp"

namespace tersor::text {
namespace {

// The interval of code values that begin with the bytes so far; both ends belong to it, and their
// first bytes differ.
struct Interval {
    uint32_t low = 0, high = 0xffffffff;

    // The last code value that means 1.
    uint32_t split(uint32_t probability) const noexcept {
        return low + static_cast<uint32_t>((uint64_t{high - low} * probability) >> 16);
    }
    void take(bool bit, uint32_t middle) noexcept {
        (bit ? high : low) = bit ? middle : middle + 1;
    }
    bool first_byte_known() const noexcept { return ((low ^ high) >> 24) == 0; }
    void drop_first_byte() noexcept {
        low <<= 8;
        high = (high << 8) | 255;
    }
    // The fewest bytes that, followed by endless zeros, lie in the interval. The last one is not
    // zero.
    std::vector<uint8_t> shortest() const {
        uint32_t value = 0;
        for (int bits = 0; value < low;) {
            bits += 8;
            const uint64_t unit = uint64_t{1} << (32 - bits);
            const uint64_t up = (low + unit - 1) / unit * unit;
            if (up <= high) value = static_cast<uint32_t>(up);
        }
        std::vector<uint8_t> bytes;
        for (; value != 0; value <<= 8) bytes.push_back(static_cast<uint8_t>(value >> 24));
        return bytes;
    }
};

}  // namespace

std::vector<uint8_t> compress(std::span<const uint8_t> text) {
    std::vector<uint8_t> blob;
    Model model;
    Interval interval;
    for (const uint8_t byte : text) {
        for (int i = 7; i >= 0; --i) {
            const bool bit = (byte >> i) & 1;
            interval.take(bit, interval.split(model.probability()));
            model.update(bit);
            while (interval.first_byte_known()) {
                blob.push_back(static_cast<uint8_t>(interval.low >> 24));
                interval.drop_first_byte();
            }
        }
    }
    const auto rest = interval.shortest();
    blob.insert(blob.end(), rest.begin(), rest.end());
    // The decoder takes missing bytes as zeros.
    while (!blob.empty() && blob.back() == 0) blob.pop_back();
    return blob;
}

bool decompress(std::span<const uint8_t> blob, std::span<uint8_t> text) {
    Model model;
    Interval interval;
    size_t read = 0;
    uint32_t code = 0;
    const auto next = [&] {
        code = (code << 8) | (read < blob.size() ? blob[read] : 0u);
        ++read;
    };
    for (int i = 0; i < 4; ++i) next();
    for (uint8_t& byte : text) {
        uint32_t bits = 0;
        for (int i = 0; i < 8; ++i) {
            const uint32_t middle = interval.split(model.probability());
            const bool bit = code <= middle;
            interval.take(bit, middle);
            model.update(bit);
            bits = bits * 2 + bit;
            while (interval.first_byte_known()) {
                interval.drop_first_byte();
                next();
            }
        }
        byte = static_cast<uint8_t>(bits);
    }
    // The bytes before the last four read are those the encoder wrote, since `code` stayed in the
    // interval.
    const size_t settled = read - 4;
    auto rest = interval.shortest();
    if (blob.size() < settled) return rest.empty() && (blob.empty() || blob.back() != 0);
    if (!blob.empty() && blob.back() == 0) return false;
    return std::ranges::equal(blob.subspan(settled), rest);
}

}  // namespace tersor::text
