#include "container/text_model.hpp"

#include <algorithm>

#include "container/text_dictionary.hpp"

namespace tersor::text {
namespace {

constexpr int32_t kLogitLimit = 2047;  // logits have 8 fractional bits
constexpr int32_t kOne = 65536;        // weight 1.0
constexpr int kCounterLimit = 127;
constexpr int64_t kWeightLimit = 64 * kOne;
constexpr int32_t kInitialWeight = kOne * 40 / 100;
// Of the weights: falls from the first to the last value, and is half-way after so many bytes.
constexpr int32_t kFirstRate = 96, kLastRate = 8, kHalvingBytes = 1024;

// 65536 / (1 + exp(-x)) for x = -8, -7.5 .. 8.
constexpr int32_t kLogistic[33] = {22,    36,    60,    98,    162,   267,   439,   720,   1179,
                                   1921,  3108,  4971,  7812,  11955, 17625, 24743, 32768, 40793,
                                   47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097,
                                   65269, 65374, 65438, 65476, 65500, 65514};

// Probability in 1/65536 of a logit, linear between the points of the table.
constexpr int32_t squash(int32_t logit) noexcept {
    const int32_t x = std::clamp(logit, -kLogitLimit, kLogitLimit) + 2048;
    const int32_t at = x >> 7, part = x & 127;
    return (kLogistic[at] * (128 - part) + kLogistic[at + 1] * part) >> 7;
}

// The inverse: for each probability in 1/4096 the smallest logit that reaches it.
constexpr auto kStretch = [] {
    std::array<int16_t, 4096> table{};
    int32_t logit = -kLogitLimit;
    for (int32_t p = 0; p < 4096; ++p) {
        while (logit < kLogitLimit && squash(logit) < p * 16 + 8) ++logit;
        table[p] = static_cast<int16_t>(logit);
    }
    return table;
}();

// By the number of updates of a counter: how far the next one moves it, in 1/65536, and its set of
// weights.
struct Pace {
    std::array<int32_t, kCounterLimit + 1> rate;
    std::array<uint8_t, kCounterLimit + 1> confidence;
    constexpr Pace() : rate{}, confidence{} {
        constexpr int limits[] = {1, 2, 3, 4, 8, 16, 48};
        for (int n = 0; n <= kCounterLimit; ++n) {
            rate[n] = 65536 * 2 / (2 * n + 3);
            for (const int limit : limits)
                if (n >= limit) ++confidence[n];
        }
    }
};
constexpr Pace kPace;

Counter updated(Counter counter, bool bit) noexcept {
    const int32_t error = (bit ? 32767 : -32768) - counter.probability;
    const int32_t change = error * (kPace.rate[counter.seen] >> 1) / 32768;
    counter.probability = static_cast<int16_t>(counter.probability + change);
    if (counter.seen < kCounterLimit) ++counter.seen;
    return counter;
}

}  // namespace

Model::Model() : counters_(std::make_unique<Counter[]>(kInputs * kCounters)) {
    for (auto& row : weights_) row.fill(kInitialWeight);
    predict();
    for (const char c : kDictionary) {
        for (int i = 7; i >= 0; --i) update((static_cast<uint8_t>(c) >> i) & 1);
    }
}

void Model::predict() noexcept {
    const auto& contexts = history_.contexts();
    const auto& guesses = history_.guesses();
    std::array<uint32_t, kInputs> hashes;
    for (size_t i = 0; i < kContexts; ++i) hashes[i] = contexts[i] + partial_ * 0x2C1B3C6Du;
    for (size_t i = 0; i < kGuesses; ++i) {
        hashes[kContexts + i] = guesses[i].context + bits_ * 0x2C1B3C6Du;
    }
    for (size_t i = 0; i < kInputs; ++i) {
        const uint32_t hash = hashes[i] * 0x9E3779B1u;
        slots_[i] = &counters_[i * kCounters + (hash >> 16)];
        // A counter of another context is taken over; as an integer, so that no branch is
        // mispredicted.
        const uint32_t owner = ((hash >> 4) & 0xff) << 16;
        const uint32_t found = std::bit_cast<uint32_t>(*slots_[i]);
        active_[i] = std::bit_cast<Counter>(((found ^ owner) & 0xff0000) == 0 ? found : owner);
    }
    for (size_t i = 0; i < kInputs; ++i) {
        const Counter counter = active_[i];
        active_weights_[i] = &weights_[i][kPace.confidence[counter.seen]];
        inputs_[i] = counter.seen == 0 ? 0 : kStretch[(counter.probability + 32768) >> 4];
    }
    for (size_t i = 0; i < kGuesses; ++i) inputs_[kContexts + i] *= guess_sign(i);
    int64_t sum = 0;
    for (size_t i = 0; i < kInputs; ++i) {
        sum += static_cast<int64_t>(inputs_[i]) * *active_weights_[i];
    }
    const int64_t logit = std::clamp<int64_t>(sum >> 16, -kLogitLimit, kLogitLimit);
    probability_ = static_cast<uint32_t>(squash(static_cast<int32_t>(logit)));
}

int32_t Model::guess_sign(size_t guess) noexcept {
    const int byte = history_.guesses()[guess].byte;
    // With a leading one: as long as the bits so far agree with it, it is a guess.
    const uint32_t expected = static_cast<uint32_t>(byte) | 0x100u;
    if (byte < 0 || (expected >> (8 - bits_)) != partial_) return signs_[guess] = 0;
    return signs_[guess] = (expected >> (7 - bits_)) & 1 ? 1 : -1;
}

void Model::update(bool bit) noexcept {
    const int32_t error = (bit ? 65536 : 0) - static_cast<int32_t>(probability_);
    for (size_t i = 0; i < kInputs; ++i) {
        const int64_t change = static_cast<int64_t>(inputs_[i]) * error * rate_;
        const int64_t weight = *active_weights_[i] + ((change + (1 << 17)) >> 18);
        *active_weights_[i] =
            static_cast<int32_t>(std::clamp<int64_t>(weight, -kWeightLimit, kWeightLimit));
    }
    for (size_t i = 0; i < kContexts; ++i) *slots_[i] = updated(active_[i], bit);
    for (size_t i = 0; i < kGuesses; ++i) {
        if (signs_[i] == 0) continue;
        *slots_[kContexts + i] = updated(active_[kContexts + i], bit == (signs_[i] > 0));
    }
    partial_ = partial_ * 2 + bit;
    bits_ = (bits_ + 1) & 7;
    if (bits_ == 0) {
        history_.append(static_cast<uint8_t>(partial_));
        partial_ = 1;
        bytes_ += bytes_ < (1 << 20);
        rate_ = kLastRate + (kFirstRate - kLastRate) * kHalvingBytes / (kHalvingBytes + bytes_);
    }
    predict();
}

}  // namespace tersor::text
