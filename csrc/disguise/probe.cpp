#include "disguise/probe.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "disguise/distinct_words.hpp"

namespace tersor::disguise {
namespace {

constexpr size_t kPlaces = 64, kPerPlace = 8, kSample = kPlaces * kPerPlace;
constexpr size_t kRuns = 8, kRun = 32, kShortestRun = 8;
constexpr size_t kRunsMissed = 2;   // which may be the exceptions in a tensor on a grid
constexpr size_t kAlignment = 128;  // the longest groups that quantizers use begin at its multiples
constexpr size_t kRowSample = 256;
constexpr size_t kZerosShare = 16;

float half_to_float(uint16_t raw) noexcept {
    const uint32_t sign = (raw & 0x8000u) << 16, magnitude = raw & 0x7FFFu;
    if (magnitude >= 0x7C00u) return std::bit_cast<float>(sign | 0x7F800000u | magnitude << 13);
    // Scaled by 2^112, the difference of the exponents' biases.
    return std::copysign(std::bit_cast<float>(magnitude << 13) * 0x1p112f,
                         std::bit_cast<float>(sign | 0x3F800000u));
}

template <typename Word>
double value_of(Word word, Numbers kind) noexcept {
    if constexpr (sizeof(Word) == 8) {
        return std::bit_cast<double>(word);
    } else if constexpr (sizeof(Word) == 4) {
        return std::bit_cast<float>(word);
    } else if constexpr (sizeof(Word) == 2) {
        if (kind == Numbers::half) return half_to_float(word);
        return std::bit_cast<float>(static_cast<uint32_t>(word) << 16);
    } else {
        return 0;
    }
}

// A few words of many places, or all of a small tensor.
template <typename Word>
size_t take_sample(std::span<const Word> words, std::array<Word, kSample>& sample) noexcept {
    if (words.size() <= kSample) {
        std::ranges::copy(words, sample.begin());
        return words.size();
    }
    const size_t last = words.size() - kPerPlace;
    for (size_t place = 0; place < kPlaces; ++place) {
        // Products of sizes above 2^58 words would wrap; no memory holds them.
        const size_t at = last * place / (kPlaces - 1);
        for (size_t i = 0; i < kPerPlace; ++i) sample[place * kPerPlace + i] = words[at + i];
    }
    return kSample;
}

template <typename Word>
bool few_distinct(std::span<const Word> words, size_t limit) noexcept {
    WordSet<Word> found;
    for (const Word word : words) {
        found.insert(word);
        if (found.size() > limit) return false;
    }
    return true;
}

template <typename Word>
uint32_t look_at_values(std::span<const Word> sample, Numbers kind) noexcept {
    uint32_t hints = 0;
    size_t zeros = 0;
    Word any = 0;
    bool integers = true;
    for (const Word word : sample) {
        zeros += word == 0;
        any |= word;
        const double value = value_of(word, kind);
        integers = integers && std::fabs(value) <= 0x1p53 && value == std::nearbyint(value);
    }
    if (zeros * kZerosShare >= sample.size()) hints |= kZeros;
    if (integers) hints |= kIntegers;
    if (kind == Numbers::single && (any & 0xFFFFu) == 0) hints |= kBfloat;
    if (kind == Numbers::single && (any & 0x1FFFu) == 0) hints |= kHalf;
    if (kind == Numbers::real64 && (static_cast<uint64_t>(any) & 0x1FFFFFFFu) == 0)
        hints |= kSingle;
    return hints;
}

// Whether distinct values of a run keep the distance that 256 levels between the extremes have.
// Rounding to a float of 16 bits may bring them nearer.
template <typename Word>
bool keeps_distance(std::span<const Word> run, Numbers kind) noexcept {
    std::array<float, kRun> values;
    for (size_t i = 0; i < run.size(); ++i) {
        values[i] = static_cast<float>(value_of(run[i], kind));
        if (!std::isfinite(values[i])) return false;
    }
    const auto used = std::span(values).first(run.size());
    std::ranges::sort(used);
    const float range = used.back() - used.front();
    const float least = range / (kind == Numbers::single ? 257.0f : 600.0f);
    for (size_t i = 1; i < used.size(); ++i) {
        const float gap = used[i] - used[i - 1];
        if (gap > 0 && gap < least) return false;
    }
    return true;
}

template <typename Word>
bool may_be_grid(std::span<const Word> words, size_t rows, size_t length, Numbers kind) noexcept {
    if (length < kShortestRun || kind == Numbers::other || kind == Numbers::real64) return false;
    const size_t per_row = std::max<size_t>(length / kAlignment, 1);
    const size_t runs = std::min(kRuns, rows * per_row);
    size_t missed = 0;
    for (size_t run = 0; run < runs; ++run) {
        const size_t number = rows * per_row * run / runs;
        const size_t at = number / per_row * length + number % per_row * kAlignment;
        const size_t left = length - number % per_row * kAlignment;
        missed += !keeps_distance(words.subspan(at, std::min(kRun, left)), kind);
        if (missed > kRunsMissed || 2 * missed > runs) return false;
    }
    return true;
}

template <typename Word>
bool few_in_rows(std::span<const Word> words, size_t rows, size_t length) noexcept {
    const size_t count = std::min(length, kRowSample);
    if (rows < 2 || count < kRun) return false;
    return few_distinct(words.subspan(rows / 2 * length, count), count / 4) &&
           few_distinct(words.subspan((rows - 1) * length, count), count / 4);
}

}  // namespace

template <typename Word>
uint32_t probe(std::span<const Word> words, size_t rows, size_t length, Numbers kind) noexcept {
    if (words.empty()) return 0;
    std::array<Word, kSample> buffer;
    const auto sample = std::span<const Word>(buffer).first(take_sample(words, buffer));
    uint32_t hints = kind == Numbers::other ? 0 : look_at_values(sample, kind);
    if (few_distinct(sample, std::min<size_t>(256, sample.size() / 2))) hints |= kFew;
    if (few_in_rows(words, rows, length)) hints |= kFewInRow;
    if (may_be_grid(words, rows, length, kind)) hints |= kGrid;
    return hints;
}

template uint32_t probe(std::span<const uint8_t>, size_t, size_t, Numbers) noexcept;
template uint32_t probe(std::span<const uint16_t>, size_t, size_t, Numbers) noexcept;
template uint32_t probe(std::span<const uint32_t>, size_t, size_t, Numbers) noexcept;
template uint32_t probe(std::span<const uint64_t>, size_t, size_t, Numbers) noexcept;

}  // namespace tersor::disguise
