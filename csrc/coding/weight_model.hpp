// All that has been learned about one family of tensors: counters and weights of the mixers and
// predictors, with the binary decisions that a residual is made of.
//
// A residual d is coded as: is it 0; floor(log2 |d|) in unary; the bits of |d| below the top one;
// its sign. The first two are mixed from several contexts, the upper two bits are coded in the
// context of the scale, the others by their own frequency; the sign is mixed.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "coding/mixer.hpp"
#include "coding/scale_predictor.hpp"
#include "coding/value_predictor.hpp"
#include "coding/weight_contexts.hpp"

namespace tersor {

// Which residuals can occur: those from `least` to `most`, which include 0; both within +-65535.
struct ResidualRange {
    std::int32_t least;
    std::int32_t most;
};

class WeightModel {
  public:
    // Decisions about the bit width of a size: n: is it above n, where it is at least n (or at
    // least n + 1, for the first question); kDown + n: is it n, where it is at most n.
    static constexpr std::size_t kSizeNodes = 32;
    static constexpr unsigned kDown = 16;

    // The bit width that is asked for first, near the median; at least 1.
    static unsigned likely_width(std::size_t step) noexcept {
        return step < 56 ? 1 : static_cast<unsigned>(step >> 3) - 5;
    }
    static constexpr std::size_t kHeads = 256 + 6;

    // `states`: of the trellis whose indices are coded; 1 for none.
    explicit WeightModel(unsigned states);

    // Codes a residual within `range` (when decoding: any). A decoded one may be out of range.
    template <typename Coder>
    std::int32_t code(Coder& coder, const Place& place, const Magnitudes& near, const Signs& signs,
                      const Outlook& now, ResidualRange range, std::int32_t residual);

    ScaleWeights scale;
    ValueWeights value;
    std::array<Counter, kHeads> heads;  // of what is said once a tensor

  private:
    // What sizes are expected in each scale step, into `nodes` (kScaleSteps x kSizeNodes).
    void expect_sizes(Counter* nodes, bool odd);
    template <typename Coder>
    std::uint32_t code_size(Coder& coder, const Place& place, const Magnitudes& near,
                            const Outlook& now, std::uint32_t most, std::uint32_t size);
    template <typename Coder>
    bool code_sign(Coder& coder, const Place& place, const Signs& signs, const Outlook& now,
                   std::uint32_t size, bool negative);

    using SizeMixer = MixerWeights<SizeContexts::kCount>;
    using SignMixer = MixerWeights<SignContexts::kCount>;

    std::vector<Counter> sizes_;                                       // contexts x nodes
    std::array<std::array<Counter, kScaleSteps>, 16 * 4> upper_bits_;  // (top, node) x scale
    std::array<Counter, 256 + 16 * 16> lower_bits_;                    // by prefix, or (top, bit)
    std::array<Counter, SignContexts::kEnd> signs_;
    std::array<SizeMixer, kSizeNodes * kKernelKinds> size_mixers_;
    std::array<SignMixer, kKernelKinds> sign_mixers_;
};

template <typename Coder>
std::uint32_t WeightModel::code_size(Coder& coder, const Place& place, const Magnitudes& near,
                                     const Outlook& now, std::uint32_t most, std::uint32_t size) {
    const SizeContexts contexts(place, near, now);
    std::array<Counter*, SizeContexts::kCount> rows;
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = &sizes_[contexts.at[i] * kSizeNodes];
    SizeMixer* mixers = &size_mixers_[place.kind * kSizeNodes];
    const auto mixed = [&](unsigned node, bool decision) {
        std::array<Counter*, SizeContexts::kCount> counters;
        for (std::size_t i = 0; i < counters.size(); ++i) counters[i] = rows[i] + node;
        return code_mixed(coder, counters, mixers[node], decision);
    };
    const auto last = static_cast<unsigned>(std::bit_width(most));
    const auto actual = static_cast<unsigned>(std::bit_width(size));
    const unsigned middle_width = std::min(likely_width(now.step), last);
    unsigned width = middle_width;
    if (mixed(width - 1, actual >= width)) {
        while (width < last && mixed(width, actual > width)) ++width;
    } else {
        --width;
        while (width > 0 && !mixed(kDown + width, actual == width)) --width;
    }
    if (width == 0) return 0;
    const unsigned top = width - 1;

    std::uint32_t prefix = 1;
    for (unsigned bit = top; bit-- > 0;) {
        const bool set = size >> bit & 1;
        // The middle of what `size` can still be names the decision; of large ones, the place does.
        const std::uint32_t middle = (prefix << 1 | 1) << bit;
        Counter& counter = prefix < 4 ? upper_bits_[top * 4 + prefix][now.step]
                                      : lower_bits_[middle < 256 ? middle : 256 + top * 16 + bit];
        prefix = prefix << 1 | static_cast<std::uint32_t>(code_alone(coder, counter, set));
    }
    return prefix;
}

template <typename Coder>
bool WeightModel::code_sign(Coder& coder, const Place& place, const Signs& signs,
                            const Outlook& now, std::uint32_t size, bool negative) {
    const SignContexts contexts(place, signs, now, size);
    std::array<Counter*, SignContexts::kCount> counters;
    for (std::size_t i = 0; i < counters.size(); ++i) counters[i] = &signs_[contexts.at[i]];
    return code_mixed(coder, counters, sign_mixers_[place.kind], negative);
}

template <typename Coder>
std::int32_t WeightModel::code(Coder& coder, const Place& place, const Magnitudes& near,
                               const Signs& signs, const Outlook& now, ResidualRange range,
                               std::int32_t residual) {
    const std::int32_t most = std::max(range.most, -range.least);
    if (most == 0) return 0;
    const auto size = static_cast<std::int32_t>(
        code_size(coder, place, near, now, static_cast<std::uint32_t>(most),
                  static_cast<std::uint32_t>(residual < 0 ? -residual : residual)));
    if (size == 0) return 0;
    if (size > range.most) return -size;
    if (size > -range.least) return size;
    return code_sign(coder, place, signs, now, static_cast<std::uint32_t>(size), residual < 0)
               ? -size
               : size;
}

}  // namespace tersor
