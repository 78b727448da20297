// Adaptive probabilities of binary decisions: counters in three kinds of context, mixed in the
// logistic domain (Mahoney 2005, "Adaptive weighing of context models for lossless data
// compression").
//
// Units: probabilities are of "true", in 2^-16; logits (stretched probabilities) are ln(p / (1 -
// p)) in 2^-8, from -2047 to 2047; weights are in 2^-16.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tersor {

inline constexpr int kMaxLogit = 2047;

// The probability of a logit, interpolated between 33 points of 1 / (1 + exp(-x)).
std::uint32_t squash(int logit) noexcept;

// The logit of a probability: the inverse of `squash` on the upper 12 bits.
int stretch(std::uint32_t probability) noexcept;

// A probability that starts as the mean of all decisions seen (Krichevsky-Trofimov) and forgets
// older ones once it has seen as many as its limit.
struct Counter {
    std::uint16_t probability = 1u << 15;
    std::uint16_t seen = 0;

    void update(bool decision, unsigned limit) noexcept;
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
        Prediction prediction = predict(place);
        decision = coder.code(decision, prediction.probability);
        learn(prediction, decision);
        return decision;
    }

  private:
    static constexpr std::size_t kInputs = 3;
    using Weights = std::array<std::int32_t, kInputs>;

    struct Prediction {
        std::array<Counter*, kInputs> counters;
        std::array<std::int32_t, kInputs> logits;
        Weights* weights;
        std::uint32_t probability;
    };

    Prediction predict(const Place& place) noexcept;
    static void learn(const Prediction& prediction, bool decision) noexcept;

    std::size_t nodes_;
    std::size_t contexts_;
    std::vector<Counter>
        counters_;  // [0]: order 0; [1 + c]: first context; [1 + contexts + c]: second
    std::vector<Weights> weights_;
};

}  // namespace tersor
