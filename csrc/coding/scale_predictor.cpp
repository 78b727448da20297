#include "coding/scale_predictor.hpp"

#include <algorithm>

namespace tersor {
namespace {

// How many observations' worth of information a factor is held at 0 with, before it has seen any.
constexpr int kTensorPrior = 1;
constexpr int kRowPrior = 6;
constexpr int kColumnPrior = 8;
constexpr int kChannelPrior = 8;
constexpr int kPositionPrior = 10;
constexpr std::int32_t kMostInformation = 400 << 8;  // older observations are forgotten

// 1 / (1/4 of an observation) in 2^-20, for the information in quarters.
constexpr auto kInverses = [] {
    std::array<std::int32_t, 4 * 420> inverses{};
    for (std::size_t i = 0; i < inverses.size(); ++i) {
        inverses[i] = (1 << 22) / (static_cast<std::int32_t>(i) + 1);
    }
    return inverses;
}();

constexpr std::size_t kDenseInputs = 6;       // the others are of kernels
constexpr std::int64_t kMostScore = 5 << 11;  // 2.5: an outlier says no more
constexpr int kLogLimit = 15 * kLogOne;
constexpr int kWeightShift = 15;
constexpr std::int32_t kLeastWeight = -(1 << 16);
constexpr std::int32_t kMostWeight = 1 << 18;
constexpr std::uint64_t kPriorWeight =
    8;  // of the expected magnitude against one that was seen, x 4

const int kOfOne = fixed_log2(8 + 4);
const int kOfThree = fixed_log2(8 + 4 * 3);

// log2 of (8 expected + 4 seen) / ((8 + 4 count) expected), the logarithm of 8 + 4 count given.
int evidence(std::int64_t expected, int log_expected, std::uint32_t seen, int log_weight) noexcept {
    const std::uint64_t sum = kPriorWeight * static_cast<std::uint64_t>(expected) +
                              (static_cast<std::uint64_t>(seen) << 14);
    return fixed_log2(sum) - log_expected - log_weight;
}

}  // namespace

ScaleWeights::ScaleWeights() noexcept {
    constexpr std::int32_t kOne = 1 << 16;
    constexpr Set kStart = {kOne,      kOne,      kOne / 2,  kOne / 2, kOne / 16,
                            kOne / 16, kOne / 16, kOne / 16, 0};
    for (auto& kind : sets_) kind.fill(kStart);
}

ScalePredictor::ScalePredictor(ScaleWeights& weights, const TensorShape& shape)
    : weights_(weights),
      tensor_{weights.tensor, 0},
      columns_(shape.row_length()),
      width_(shape.width) {
    if (shape.kernel > 1) {
        channels_.resize(shape.channels);
        positions_.resize(shape.kernel);
    }
}

Scale ScalePredictor::predict(const Place& place, const Magnitudes& near) noexcept {
    const ScaleWeights::Set& weights = weights_.at(place);
    auto& x = inputs_;
    x[0] = row_.log;
    x[1] = columns_[place.column].log;
    const bool dense = place.kind == 0;
    if (!dense) {
        x[2] = channels_[place.channel].log;
        x[3] = positions_[place.position].log;
    }
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < ScaleWeights::kFactors; ++i) {
        sum += static_cast<std::int64_t>(weights[i]) * x[i];
    }
    const int far =
        std::clamp(tensor_.log + static_cast<int>(rounded_shift(sum, 16)), -8 * kLogOne, kLogLimit);
    const std::int64_t expected = fixed_exp2(far, 12);
    const int log_expected = fixed_log2(static_cast<std::uint64_t>(expected));

    const auto nearby = [&](bool there, std::uint32_t seen, int log_weight) {
        return there ? evidence(expected, log_expected, seen, log_weight) : 0;
    };
    x[4] = nearby(place.column > 1, 2 * near.left + near.left2, kOfThree);
    x[5] = nearby(rows_ > 2, 2 * near.up + near.up2, kOfThree);
    if (!dense) {
        x[6] = nearby(place.channel > 0, near.previous, kOfOne);
        x[7] =
            nearby(place.position > 0, near.kernel, fixed_log2(kPriorWeight + 4 * place.position));
        x[8] = nearby(width_ > 0 && place.position >= width_, near.above, kOfOne);
    }
    sum = 0;
    for (std::size_t i = ScaleWeights::kFactors; i < (dense ? kDenseInputs : x.size()); ++i) {
        sum += static_cast<std::int64_t>(weights[i]) * x[i];
    }
    const int log =
        std::clamp(far + static_cast<int>(rounded_shift(sum, 16)), -8 * kLogOne, kLogLimit);
    return {log, std::max<std::int64_t>(fixed_exp2(log, 12), 8), x[0], x[1]};
}

void ScalePredictor::learn(Factor& factor, int prior, std::int64_t score,
                           std::int32_t information) {
    const std::size_t quarters =
        static_cast<std::size_t>(factor.information >> 6) + 4 * static_cast<std::size_t>(prior);
    factor.log += static_cast<std::int32_t>(rounded_shift(score * kInverses[quarters], 20));
    factor.log = std::clamp(factor.log, -kLogLimit, kLogLimit);
    factor.information = std::min(factor.information + information, kMostInformation);
}

void ScalePredictor::learn(const Place& place, const Scale& scale,
                           std::uint32_t magnitude) noexcept {
    constexpr std::int64_t kOne = 1 << 12;
    // From 1 / (1 + s) come the score and the information.
    const int log = fixed_log2(static_cast<std::uint64_t>(kOne + scale.mean));
    const std::int64_t inverse = fixed_exp2(-log, 36);  // 2^24 / (1 + s)
    const std::int64_t error = (static_cast<std::int64_t>(magnitude) << 12) - scale.mean;
    const std::int64_t score = std::clamp(error * inverse >> 24, -kMostScore, kMostScore);
    const auto information = static_cast<std::int32_t>(256 - (inverse >> 16));

    ScaleWeights::Set& weights = weights_.at(place);
    const bool dense = place.kind == 0;
    for (std::size_t i = 0; i < (dense ? kDenseInputs : weights.size()); ++i) {
        const auto step =
            static_cast<std::int32_t>(rounded_shift(score * inputs_[i], kWeightShift));
        weights[i] = std::clamp(weights[i] + step, kLeastWeight, kMostWeight);
    }

    constexpr std::int64_t kLog2E = 1477;  // in 2^-10: scores are of natural logarithms
    const std::int64_t step = score * kLog2E >> 10;
    learn(tensor_, kTensorPrior, step, information);
    learn(row_, kRowPrior, step, information);
    learn(columns_[place.column], kColumnPrior, step, information);
    if (!dense) {
        learn(channels_[place.channel], kChannelPrior, step, information);
        learn(positions_[place.position], kPositionPrior, step, information);
    }
    weights_.tensor = tensor_.log;
}

}  // namespace tersor
