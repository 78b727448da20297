#include "coding/float_plan.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>

#include "coding/histogram.hpp"

namespace tersor {
namespace {

constexpr std::size_t kSample = 1u << 15;  // words that decide about tops and zeros
constexpr std::size_t kManyZeros = 16;     // more zeros than this part: byte planes do better
constexpr std::size_t kShortRow = 32;      // rows that are not worth a flag
constexpr std::size_t kUsualPart = 2048;   // symbols outside of the usual ones: this part at most
constexpr std::size_t kRegisterSymbols = 30;  // usual symbols of the fast shape
constexpr std::size_t kTableSymbols = 140;    // of the small one

// Tops from the widest that is worth a look to the exponent alone.
struct Range {
    unsigned most;
    unsigned least;
};

template <typename Word>
constexpr Range top_range(bool small) noexcept {
    if constexpr (sizeof(Word) == 2) return small ? Range{10, 6} : Range{8, 5};
    if constexpr (sizeof(Word) == 4) return small ? Range{10, 9} : Range{8, 8};
    return small ? Range{13, 12} : Range{11, 11};
}

// Words spread over all of `words`.
template <typename Word>
std::vector<Word> take_sample(std::span<const Word> words) {
    constexpr std::size_t kRunLength = 64;
    if (words.size() <= kSample) return {words.begin(), words.end()};
    std::vector<Word> sample;
    sample.reserve(kSample);
    const std::size_t runs = kSample / kRunLength;
    for (std::size_t i = 0; i < runs; ++i) {
        const auto begin = words.begin() + static_cast<std::ptrdiff_t>((words.size() - kRunLength) *
                                                                       i / (runs - 1));
        sample.insert(sample.end(), begin, begin + static_cast<std::ptrdiff_t>(kRunLength));
    }
    return sample;
}

// How many different tops make up all of the sample but one in kUsualPart.
template <typename Word>
std::size_t usual_tops(const std::vector<Word>& sample, unsigned top_bits) {
    std::vector<std::size_t> counts(std::size_t{1} << top_bits);
    for (const Word word : sample) ++counts[top_of(word, top_bits)];
    std::sort(counts.begin(), counts.end(), std::greater<>());
    std::size_t left = sample.size() - sample.size() / kUsualPart;
    std::size_t used = 0;
    while (left > 0) left -= std::min(left, counts[used++]);
    return used;
}

// Where the window of tops lies that holds the most words; false if too many are outside.
template <typename Word>
bool place_window(std::span<const Word> words, FloatLayout& layout) {
    constexpr std::size_t kEscapes = 256;  // this part may lie outside
    const std::size_t tops = std::size_t{1} << layout.top_bits;
    std::vector<std::uint32_t> counts(tops);
    for (const Word word : words) ++counts[top_of(word, layout.top_bits)];
    counts[0] = 0;  // has a symbol anyway
    std::size_t inside = 0;
    for (std::size_t t = 0; t < kWindow; ++t) inside += counts[t];
    std::size_t best = inside;
    layout.first_top = 0;
    for (std::size_t t = kWindow; t < tops; ++t) {
        inside += counts[t];
        inside -= counts[t - kWindow];
        if (inside > best) {
            best = inside;
            layout.first_top = static_cast<std::uint32_t>(t - kWindow + 1);
        }
    }
    std::size_t all = 0;
    for (const std::uint32_t c : counts) all += c;
    return all - best <= words.size() / kEscapes;
}

// How many zeros the mantissas of each row end in, at most `most`.
template <typename Word>
std::vector<std::uint8_t> row_zeros(std::span<const Word> words, const MatrixShape& shape,
                                    unsigned most) {
    const std::size_t length = shape.row_length();
    std::vector<std::uint8_t> zeros(shape.rows);
    for (std::size_t r = 0; r < shape.rows; ++r) {
        const Word* const row = words.data() + r * length;
        Word seen = static_cast<Word>(Word{1} << most);
        // Most rows say no at once.
        const std::size_t head = std::min<std::size_t>(length, 16);
        for (std::size_t j = 0; j < head; ++j) seen = static_cast<Word>(seen | row[j]);
        if ((seen & 1) == 0) {
            for (std::size_t j = head; j < length; ++j) seen = static_cast<Word>(seen | row[j]);
        }
        zeros[r] = static_cast<std::uint8_t>(std::countr_zero(seen));
    }
    return zeros;
}

// The class of a row: the last whose zeros it has.
std::uint8_t class_of(const std::vector<std::uint8_t>& zeros, std::uint8_t row) noexcept {
    std::uint8_t cls = 0;
    for (std::size_t c = 1; c < zeros.size(); ++c) {
        if (zeros[c] <= row) cls = static_cast<std::uint8_t>(c);
    }
    return cls;
}

// Classes that save the most mantissa bits, and more than their flags cost.
void choose_classes(const std::vector<std::uint8_t>& row_zeros, std::size_t row_length,
                    FloatLayout& layout) {
    std::array<std::size_t, 64> rows{};
    for (const std::uint8_t z : row_zeros) ++rows[z];
    const auto saved = [&](std::vector<std::uint8_t> zeros) {
        std::sort(zeros.begin(), zeros.end());
        std::size_t bits = 0;
        for (std::uint8_t z = 0; z < rows.size(); ++z) {
            if (rows[z] > 0) bits += rows[z] * row_length * zeros[class_of(zeros, z)];
        }
        return bits;
    };
    std::vector<std::uint8_t> zeros = {*std::min_element(row_zeros.begin(), row_zeros.end())};
    layout.zeros = zeros;
    std::size_t best = saved(zeros);
    while (zeros.size() < kMaxFloatClasses) {
        std::vector<std::uint8_t> wider = zeros;
        wider.push_back(zeros.front());
        std::size_t most = 0;
        for (std::uint8_t z = 0; z < rows.size(); ++z) {
            if (rows[z] == 0) continue;
            std::vector<std::uint8_t> trial = zeros;
            trial.push_back(z);
            if (const std::size_t bits = saved(trial); bits > most) {
                most = bits;
                wider = std::move(trial);
            }
        }
        zeros = std::move(wider);
        const std::size_t flags = (zeros.size() > 2 ? 2 : 1) * row_zeros.size() + 64;
        if (std::has_single_bit(zeros.size()) && most > best + flags) {
            best = most;
            layout.zeros = zeros;
            std::sort(layout.zeros.begin(), layout.zeros.end());
        }
    }
    if (layout.zeros.size() == 1) return;
    for (const std::uint8_t z : row_zeros) layout.class_of.push_back(class_of(layout.zeros, z));
}

}  // namespace

template <typename Word>
bool plan_floats(std::span<const Word> words, const MatrixShape& shape, bool small,
                 FloatLayout& layout) {
    const std::vector<Word> sample = take_sample(words);
    const auto zeros = static_cast<std::size_t>(std::count_if(
        sample.begin(), sample.end(), [](Word w) { return static_cast<Word>(w << 1) == 0; }));
    if (zeros > sample.size() / kManyZeros) return false;
    const Range range = top_range<Word>(small);
    const std::size_t most = small ? kTableSymbols : kRegisterSymbols;
    layout.top_bits = range.most;
    while (layout.top_bits > range.least && usual_tops(sample, layout.top_bits) > most) {
        --layout.top_bits;
    }
    if (layout.mapped() && !place_window(words, layout)) return false;
    const unsigned mantissa = kWordBits<Word> - 1 - layout.top_bits;
    const bool by_row = shape.row_length() >= kShortRow;
    const MatrixShape whole{1, 1, words.size()};
    choose_classes(row_zeros(words, by_row ? shape : whole, mantissa), shape.row_length(), layout);
    return true;
}

template bool plan_floats<std::uint16_t>(std::span<const std::uint16_t>, const MatrixShape&, bool,
                                         FloatLayout&);
template bool plan_floats<std::uint32_t>(std::span<const std::uint32_t>, const MatrixShape&, bool,
                                         FloatLayout&);
template bool plan_floats<std::uint64_t>(std::span<const std::uint64_t>, const MatrixShape&, bool,
                                         FloatLayout&);

}  // namespace tersor
