#include "coding/float_layout.hpp"

#include <bit>

namespace tersor {

void write_layout(Bytes& blob, const FloatLayout& layout) {
    const unsigned class_bits = static_cast<unsigned>(std::bit_width(layout.zeros.size() - 1));
    blob.push_back(static_cast<std::uint8_t>(layout.top_bits | class_bits << 4));
    if (layout.mapped()) {
        blob.push_back(static_cast<std::uint8_t>(layout.first_top));
        blob.push_back(static_cast<std::uint8_t>(layout.first_top >> 8));
    }
    blob.insert(blob.end(), layout.zeros.begin(), layout.zeros.end());
    BitWriter out(blob);
    for (const std::uint8_t cls : layout.class_of) out.put(cls, class_bits);
    out.flush();
}

bool read_layout(ByteView& blob, unsigned word_bits, std::size_t rows, FloatLayout& layout) {
    BitReader in(blob);
    layout.top_bits = in.get(4);
    const unsigned class_bits = in.get(2);
    if (in.get(2) != 0 || class_bits > 2 || layout.top_bits < 5 || layout.top_bits > 13) {
        return false;
    }
    if (layout.mapped()) layout.first_top = in.get(16);
    if (layout.mapped() && layout.first_top > (1u << layout.top_bits) - kWindow) return false;
    layout.zeros.resize(std::size_t{1} << class_bits);
    for (std::uint8_t& zeros : layout.zeros) {
        zeros = static_cast<std::uint8_t>(in.get(8));
        // A field is at least a sign, and at most what one load of eight bytes holds at any bit.
        if (zeros + layout.top_bits >= word_bits) return false;
        if (word_bits - layout.top_bits - zeros > 57) return false;
    }
    layout.class_of.assign(class_bits > 0 ? rows : 0, 0);
    if (in.overrun() || blob.size() * 8 < std::size_t{class_bits} * layout.class_of.size()) {
        return false;
    }
    for (std::uint8_t& cls : layout.class_of) cls = static_cast<std::uint8_t>(in.get(class_bits));
    if (!in.align()) return false;
    blob = in.rest();
    return true;
}

std::vector<Run> runs_of(const FloatLayout& layout, std::size_t rows) {
    if (layout.class_of.empty()) return {{0, rows, 0}};
    std::vector<Run> runs;
    for (std::size_t r = 0; r < rows; ++r) {
        if (runs.empty() || runs.back().cls != layout.class_of[r]) {
            runs.push_back({r, r, layout.class_of[r]});
        }
        runs.back().end = r + 1;
    }
    return runs;
}

}  // namespace tersor
