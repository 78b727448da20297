#include "adaptive_model.hpp"

#include <algorithm>

namespace tersor {
namespace {

constexpr unsigned kOrder0Limit = 1023;
constexpr unsigned kContextLimit = 255;
// How much a context trusts the order-0 probability that it starts from.
constexpr std::uint16_t kInheritedCount = 6;
constexpr int kLearningShift = 19;
constexpr std::uint32_t kLeastProbability = 24;

// 2^16 / (1 + exp(-x)) for x = -8, -7.5, ..., 8.
constexpr std::array<std::int32_t, 33> kSigmoid = {
    22,    36,    60,    98,    162,   267,   439,   720,   1179,  1921,  3108,
    4971,  7812,  11955, 17625, 24743, 32768, 40793, 47911, 53581, 57724, 60565,
    62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514};

struct Tables {
    std::array<std::uint16_t, 2 * kMaxLogit + 2> squash{};  // by logit + kMaxLogit + 1
    std::array<std::int16_t, 4096> stretch{};               // by probability >> 4
    std::array<std::int32_t, kOrder0Limit + 1> rate{};      // 2^15 / (seen + 2)

    constexpr Tables() {
        for (int i = 0; i < 2 * kMaxLogit + 2; ++i) {
            const int below = i >> 7;
            const int part = i & 127;
            squash[static_cast<std::size_t>(i)] = static_cast<std::uint16_t>(
                (kSigmoid[static_cast<std::size_t>(below)] * (128 - part) +
                 kSigmoid[static_cast<std::size_t>(below) + 1] * part + 64) >>
                7);
        }
        int logit = -kMaxLogit;
        for (int p = 0; p < 4096; ++p) {
            while (logit < kMaxLogit &&
                   squash[static_cast<std::size_t>(logit + kMaxLogit + 1)] < p * 16 + 8) {
                ++logit;
            }
            stretch[static_cast<std::size_t>(p)] = static_cast<std::int16_t>(logit);
        }
        for (std::size_t n = 0; n < rate.size(); ++n) {
            rate[n] = (1 << 15) / (static_cast<std::int32_t>(n) + 2);
        }
    }
};
constexpr Tables kTables;

}  // namespace

std::uint32_t squash(int logit) noexcept {
    return kTables.squash[static_cast<std::size_t>(logit + kMaxLogit + 1)];
}

int stretch(std::uint32_t probability) noexcept { return kTables.stretch[probability >> 4]; }

void Counter::update(bool decision, unsigned limit) noexcept {
    const std::int32_t error = (decision ? 65535 : 0) - static_cast<std::int32_t>(probability);
    probability = static_cast<std::uint16_t>(probability + ((error * kTables.rate[seen]) >> 15));
    if (seen < limit) ++seen;
}

MixedModel::MixedModel(std::size_t nodes, std::size_t contexts, std::size_t mixers)
    : nodes_(nodes), contexts_(contexts), counters_(nodes * (1 + 2 * contexts)), weights_(mixers) {
    for (Weights& w : weights_) w.fill((1 << 16) / static_cast<std::int32_t>(kInputs));
}

MixedModel::Prediction MixedModel::predict(const Place& place) noexcept {
    Prediction p;
    Counter* const order0 = &counters_[place.node];
    p.counters = {order0, order0 + nodes_ * (1 + place.first),
                  order0 + nodes_ * (1 + contexts_ + place.second)};
    p.weights = &weights_[place.mixer];
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < kInputs; ++i) {
        Counter& counter = *p.counters[i];
        if (counter.seen == 0) {
            counter = {order0->probability, std::min(order0->seen, kInheritedCount)};
        }
        p.logits[i] = stretch(counter.probability);
        sum += static_cast<std::int64_t>(p.logits[i]) * (*p.weights)[i];
    }
    const std::int64_t logit = std::clamp<std::int64_t>(sum >> 16, -kMaxLogit, kMaxLogit);
    p.probability = std::clamp(squash(static_cast<int>(logit)), kLeastProbability,
                               (1u << 16) - kLeastProbability);
    return p;
}

void MixedModel::learn(const Prediction& p, bool decision) noexcept {
    const std::int32_t error = (decision ? 1 << 16 : 0) - static_cast<std::int32_t>(p.probability);
    for (std::size_t i = 0; i < kInputs; ++i) {
        std::int32_t& weight = (*p.weights)[i];
        // Bounded, so that no input, however unlucky, lets the sum overflow.
        weight =
            std::clamp(weight + ((p.logits[i] * error) >> kLearningShift), -(1 << 20), 1 << 20);
    }
    p.counters[0]->update(decision, kOrder0Limit);
    p.counters[1]->update(decision, kContextLimit);
    p.counters[2]->update(decision, kContextLimit);
}

}  // namespace tersor
