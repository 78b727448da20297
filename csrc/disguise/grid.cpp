#include "disguise/grid.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>

#include "disguise/step.hpp"

namespace tersor::disguise {
namespace {

// Longer runs have too many weights for a formula to be quicker than their distinct values.
constexpr size_t kLongestGroup = 256;
constexpr size_t kMostDistinct = kMostLevels + 3;  // both zeros, and one too many
constexpr int kMostTrials = 9;
// Adding and subtracting it rounds numbers below 2^22 to integers, ties to even.
constexpr float kRound = 0x1.8p23f;

// Few levels first: a grid of more has them all.
constexpr std::array<Formula, 6> kOffsetFormulas{
    {{3, false}, {7, false}, {15, false}, {31, false}, {63, false}, {255, false}}};
constexpr std::array<Formula, 8> kZeroFormulas{{{3, false},
                                                {-4, true},
                                                {7, false},
                                                {-8, true},
                                                {15, false},
                                                {-16, true},
                                                {127, false},
                                                {-128, true}}};

uint32_t bits(float x) noexcept { return std::bit_cast<uint32_t>(x); }

// Whether x = k d + m for integers k, bit by bit. Without an offset (m = 0, `shifted` false) the
// sum is left out.
template <bool shifted>
bool matches(std::span<const float> x, float d, float m, std::span<int16_t> levels) noexcept {
    const float inverse = d == 0 ? 0 : 1 / d;
    uint32_t wrong = 0;
    for (size_t i = 0; i < x.size(); ++i) {
        const float shift = shifted ? x[i] - m : x[i];
        const float level = (shift * inverse + kRound) - kRound;
        float value = level * d;
        if (shifted) value += m;
        wrong |= bits(value) ^ bits(x[i]);
        levels[i] = static_cast<int16_t>(static_cast<int32_t>(level));
    }
    return wrong == 0;
}

struct Extremes {
    float smallest, largest;
    bool finite;
};

Extremes extremes(std::span<const float> x) noexcept {
    float smallest = x[0], largest = x[0];
    uint32_t exponents = 0;
    for (const float value : x) {
        smallest = value < smallest ? value : smallest;
        largest = value > largest ? value : largest;
        exponents = std::max(exponents, bits(value) & 0x7F800000u);
    }
    return {smallest, largest, exponents != 0x7F800000u};
}

struct Distinct {
    float value;
    uint16_t number;  // in the set
};

// Measured |x - m| of the distinct weights; `m` is one of them, or 0.
Measured distance(float value, float m, Precision precision) noexcept {
    const Slack slack = rounding_slack(std::fabs(value), precision);
    if (m == 0) return {std::fabs(value) - slack.below, std::fabs(value) + slack.above};
    // The product was rounded before the sum; its slack is at most that of the distance.
    const double exact = std::fabs(static_cast<double>(value) - m);
    const Slack product = rounding_slack(static_cast<float>(exact), Precision::single);
    const double widest = std::max(slack.above, slack.below) + product.above;
    return {exact - widest, exact + widest};
}

// A float of the range: of the trials the first is the nearest float16, if that is in it or near,
// the second the simplest; then they ascend.
float trial_step(Step range, int trial) noexcept {
    if (trial == 0) {
        const double middle = (range.low + range.high) / 2;
        return round_to(static_cast<float>(middle), Precision::half);
    }
    if (trial == 1) return simplest_between(range.low, range.high);
    float step = static_cast<float>(range.low);
    for (int i = 2; i < trial; ++i)
        step = std::nextafter(step, std::numeric_limits<float>::infinity());
    return step <= range.high * (1 + 1e-7) ? step : 0.0f;
}

// The step d > 0 with which the weights of `all`, ascending from m or from zero in magnitude, are
// multiples[i] d + m, or such a product with their own sign where m is 0. Nothing if there is none.
std::optional<float> find_step(std::span<const Distinct> all, bool shifted, float m,
                               Precision precision, std::span<int> multiples) noexcept {
    std::array<Measured, kMostDistinct> measured;
    for (size_t i = 0; i < all.size(); ++i) measured[i] = distance(all[i].value, m, precision);
    const auto range = common_step(std::span(measured).first(all.size()), multiples);
    if (!range) return std::nullopt;
    for (int trial = 0; trial < kMostTrials; ++trial) {
        const float d = trial_step(*range, trial);
        if (!(d > 0) || !std::isfinite(d)) continue;
        bool exact = true;
        for (size_t i = 0; i < all.size() && exact; ++i) {
            const float product = static_cast<float>(multiples[i]) * d;
            const float value = shifted ? round_to(product + m, precision)
                                        : std::copysign(round_to(product, precision), all[i].value);
            exact = bits(value) == bits(all[i].value);
        }
        if (exact) return d;
    }
    return std::nullopt;
}

}  // namespace

bool GridFitter::fit(std::span<const float> x, std::span<int16_t> levels, float& step,
                     float& offset) noexcept {
    step = offset = 0;
    if (x.empty()) return true;
    if (x.size() <= kLongestGroup && precision_ == Precision::single &&
        fit_formula(x, levels, step, offset)) {
        return true;
    }
    return fit_distinct(x, levels, step, offset);
}

bool GridFitter::fit_formula(std::span<const float> x, std::span<int16_t> levels, float& step,
                             float& offset) noexcept {
    const auto [smallest, largest, finite] = extremes(x);
    if (!finite || smallest == largest) return false;
    const bool shifted = form_ == GridForm::offset;
    const auto formulas = shifted ? std::span<const Formula>(kOffsetFormulas)
                                  : std::span<const Formula>(kZeroFormulas);
    for (size_t trial = 0; trial < formulas.size(); ++trial) {
        const size_t chosen = (formula_ + trial) % formulas.size();
        const Formula formula = formulas[chosen];
        const float extreme = largest >= -smallest ? largest : smallest;
        float top = shifted ? largest - smallest : std::fabs(extreme);
        if (formula.signed_extreme) top = extreme;
        const float d = round_to(top / formula.levels, Precision::half);
        if (d == 0 || !std::isfinite(d)) continue;
        // A few weights tell most wrong formulas from the right one.
        const float m = shifted ? smallest : 0;
        const auto first = x.first(std::min<size_t>(4, x.size()));
        const bool fits =
            shifted ? matches<true>(first, d, m, levels) && matches<true>(x, d, m, levels)
                    : matches<false>(first, d, m, levels) && matches<false>(x, d, m, levels);
        if (!fits) continue;
        formula_ = chosen;
        step = d;
        offset = m;
        return true;
    }
    return false;
}

bool GridFitter::fit_distinct(std::span<const float> x, std::span<int16_t> levels, float& step,
                              float& offset) noexcept {
    found_.clear();
    for (size_t i = 0; i < x.size(); ++i) {
        const uint32_t word = bits(x[i]);
        if ((word & 0x7F800000u) == 0x7F800000u) return false;
        levels[i] = static_cast<int16_t>(found_.insert(word));
        if (found_.size() > kMostDistinct) return false;
    }
    const bool shifted = form_ == GridForm::offset;
    std::array<Distinct, kMostDistinct> sorted;
    const auto all = std::span(sorted).first(found_.size());
    size_t zeros = 0;
    bool negative_zero = false;
    for (size_t number = 0; number < all.size(); ++number) {
        const float value = std::bit_cast<float>(found_[number]);
        zeros += value == 0;
        negative_zero = negative_zero || (value == 0 && std::signbit(value));
        all[number] = {value, static_cast<uint16_t>(number)};
    }
    // An offset gives one zero only, and 0 * d + m is never the negative one.
    if (shifted && negative_zero) return false;
    std::ranges::sort(all, std::less{}, [&](const Distinct& weight) {
        return shifted ? weight.value : std::fabs(weight.value);
    });
    const float m = shifted ? all[0].value : 0.0f;
    // Where the only zero is the negative one, the step is negative, too: 0 * d is that zero.
    const bool flipped = negative_zero && zeros == 1;
    const auto rest = all.subspan(shifted ? 1 : zeros);
    std::array<int, kMostDistinct> multiples{};
    std::array<int16_t, WordSet<uint32_t>::kCapacity> level_of{};
    if (!rest.empty()) {
        const auto found = find_step(rest, shifted, m, precision_, multiples);
        if (!found) return false;
        step = *found;
    }
    for (size_t i = 0; i < rest.size(); ++i) {
        const bool negative = !shifted && std::signbit(rest[i].value) != flipped;
        level_of[rest[i].number] = static_cast<int16_t>(negative ? -multiples[i] : multiples[i]);
    }
    for (const Distinct& weight : all.first(all.size() - rest.size())) {
        const bool other = !flipped && !shifted && std::signbit(weight.value);
        level_of[weight.number] = other ? kOtherZero : int16_t{0};
    }
    if (flipped) step = -step;
    offset = m;
    for (int16_t& level : levels) level = level_of[static_cast<size_t>(level)];
    return true;
}

}  // namespace tersor::disguise
