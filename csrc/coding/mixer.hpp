// Logistic mixing of what several counters predict of one decision (Mahoney 2005, "Adaptive
// weighing of context models for lossless data compression").
//
// p = squash(sum_i w_i stretch(p_i)); the weights, a set of which the caller selects, learn by
// gradient descent on the coding cost.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "coding/counter.hpp"
#include "coding/logistic.hpp"

namespace tersor {

template <std::size_t N>
struct MixerWeights {
    static constexpr std::int32_t kOne = 1 << 16;

    std::array<std::int32_t, N> of;  // in 2^-16

    constexpr MixerWeights() noexcept {
        // The counters know about the same: a little more than their mean is the best start.
        of.fill(kOne * 9 / (8 * static_cast<std::int32_t>(N)));
    }
};

// Codes a decision with `coder` (its `code` is given the decision and the probability, and returns
// the decision); counters and weights learn from it. Fresh counters start as the first one.
template <std::size_t N, typename Coder>
inline bool code_mixed(Coder& coder, const std::array<Counter*, N>& counters,
                       MixerWeights<N>& weights, bool decision) {
    constexpr std::uint32_t kInherited = 4;
    constexpr int kLearningShift = 18;
    // Sums of up to 8 products of a logit (12 bits) and a weight (2^-14) stay below 2^31.
    constexpr std::int32_t kMost = (1 << 18) - 1;
    std::array<std::int32_t, N> logits;
    std::int32_t sum = 0;
    for (std::size_t i = 0; i < N; ++i) {
        if (i > 0 && counters[i]->is_fresh()) counters[i]->inherit(*counters[0], kInherited);
        logits[i] = stretch(counters[i]->probability());
        sum += logits[i] * (weights.of[i] >> 2);
    }
    const std::uint32_t p = squash(std::clamp(sum >> 14, -kMaxLogit, kMaxLogit));
    decision = coder.code(decision, p);
    const std::int32_t error = (decision ? 1 << 16 : 0) - static_cast<std::int32_t>(p);
    for (std::size_t i = 0; i < N; ++i) {
        const std::int32_t step =
            (logits[i] * error + (1 << (kLearningShift - 1))) >> kLearningShift;
        weights.of[i] = std::clamp(weights.of[i] + step, -kMost, kMost);
        counters[i]->update(decision);
    }
    return decision;
}

// Codes a decision by one counter.
template <typename Coder>
inline bool code_alone(Coder& coder, Counter& counter, bool decision) {
    constexpr std::uint32_t kLeast = 24;
    decision = coder.code(decision, std::clamp(counter.probability(), kLeast, (1u << 16) - kLeast));
    counter.update(decision);
    return decision;
}

}  // namespace tersor
