// Adaptive probabilities of binary decisions: counters in three kinds of context, mixed in the
// logistic domain (Mahoney 2005, "Adaptive weighing of context models for lossless data
// compression").
//
// Units: probabilities are of "true", in 2^-16 unless said otherwise; logits (stretched
// probabilities) are ln(p / (1 - p)) in 2^-8, from -2047 to 2047; weights are in 2^-16.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tersor {

inline constexpr int kMaxLogit = 2047;
// No decision costs less than 2^16 / (2^16 - 24), nor more than 11.4 bits.
inline constexpr std::uint32_t kLeastProbability = 24;

struct LogisticTables {
    std::array<std::uint16_t, 2 * kMaxLogit + 2> squash;  // by logit + kMaxLogit + 1
    std::array<std::int16_t, 4096> stretch;               // by probability >> 4
    std::array<std::int32_t, 1024> rate;                  // of a counter by what it has seen, 2^-16
};
extern const LogisticTables kLogistic;

// The probability of a logit, interpolated between 33 points of 1 / (1 + exp(-x)).
inline std::uint32_t squash(int logit) noexcept {
    return kLogistic.squash[static_cast<std::size_t>(logit + kMaxLogit + 1)];
}

// The logit of a probability: the inverse of `squash` on the upper 12 bits.
inline int stretch(std::uint32_t probability) noexcept {
    return kLogistic.stretch[probability >> 4];
}

// A probability that starts as the mean of all decisions seen (Krichevsky-Trofimov) and forgets
// older ones once it has seen as many as its limit. Packed: 22 bits of probability above 10 bits of
// count.
class Counter {
  public:
    std::uint32_t probability() const noexcept { return packed_ >> 16; }
    std::uint32_t seen() const noexcept { return packed_ & 1023; }

    void update(bool decision, std::uint32_t limit) noexcept {
        const std::uint32_t count = seen();
        const std::int32_t p = static_cast<std::int32_t>(packed_ >> 10);
        const std::int32_t error = (decision ? (1 << 22) - 1 : 0) - p;
        const std::int32_t step = static_cast<std::int32_t>(
            (static_cast<std::int64_t>(error) * kLogistic.rate[count]) >> 16);
        packed_ = static_cast<std::uint32_t>(p + step) << 10 | (count < limit ? count + 1 : limit);
    }

    // Takes another's probability, trusting it as if `count` decisions had been seen at most.
    void inherit(const Counter& other, std::uint32_t count) noexcept {
        packed_ = (other.packed_ & ~1023u) | std::min(other.seen(), count);
    }

  private:
    std::uint32_t packed_ = 1u << 31;
};

// A family of decisions, each predicted from itself alone (order 0) and within two contexts.
class MixedModel {
  public:
    // `nodes` different decisions; `contexts` values of each of the two contexts; `mixers` sets of
    // weights.
    MixedModel(std::size_t nodes, std::size_t contexts, std::size_t mixers);

    // Which decision, in which contexts, mixed by which weights.
    struct Place {
        std::size_t node;
        std::size_t first;
        std::size_t second;
        std::size_t mixer;
    };

    // Codes a decision with `coder` (its `code` is given the decision and the probability, and
    // returns the decision) and learns from it.
    template <typename Coder>
    bool code(Coder& coder, const Place& place, bool decision) {
        const std::array<Counter*, kInputs> counters = {
            &counters_[place.node], &counters_[place.node + nodes_ * (1 + place.first)],
            &counters_[place.node + nodes_ * (1 + contexts_ + place.second)]};
        Weights& weights = weights_[place.mixer];
        std::array<std::int32_t, kInputs> logits;
        std::int32_t sum = 0;
        for (std::size_t i = 0; i < kInputs; ++i) {
            if (counters[i]->seen() == 0) counters[i]->inherit(*counters[0], kInheritedCount);
            logits[i] = stretch(counters[i]->probability());
            sum += logits[i] * weights[i];
        }
        const std::uint32_t p = bounded(squash(std::clamp(sum >> 16, -kMaxLogit, kMaxLogit)));
        decision = coder.code(decision, p);
        const std::int32_t error = (decision ? 1 << 16 : 0) - static_cast<std::int32_t>(p);
        for (std::size_t i = 0; i < kInputs; ++i) {
            // Bounded, so that the sum of three products stays below 2^31.
            const std::int32_t step = (logits[i] * error + kLearningRounding) >> kLearningShift;
            weights[i] = std::clamp(weights[i] + step, -kMaxWeight, kMaxWeight);
        }
        counters[0]->update(decision, kOrder0Limit);
        counters[1]->update(decision, kContextLimit);
        counters[2]->update(decision, kContextLimit);
        return decision;
    }

    // Codes a decision by its order-0 probability only: for those that contexts say nothing of.
    template <typename Coder>
    bool code_alone(Coder& coder, std::size_t node, bool decision) {
        Counter& counter = counters_[node];
        decision = coder.code(decision, bounded(counter.probability()));
        counter.update(decision, kOrder0Limit);
        return decision;
    }

  private:
    static constexpr std::size_t kInputs = 3;
    static constexpr std::uint32_t kOrder0Limit = 1023;
    static constexpr std::uint32_t kContextLimit = 1023;
    static constexpr std::uint32_t kInheritedCount = 6;
    static constexpr int kLearningShift = 20;
    static constexpr std::int32_t kLearningRounding = 1 << (kLearningShift - 1);
    static constexpr std::int32_t kMaxWeight = 1 << 18;
    using Weights = std::array<std::int32_t, kInputs>;

    static std::uint32_t bounded(std::uint32_t p) noexcept {
        return std::clamp(p, kLeastProbability, (1u << 16) - kLeastProbability);
    }

    std::size_t nodes_;
    std::size_t contexts_;
    std::vector<Counter>
        counters_;  // rows of nodes: order 0; contexts of the first kind; of the second
    std::vector<Weights> weights_;
};

}  // namespace tersor
