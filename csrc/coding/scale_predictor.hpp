// How large the next value of a quantized weight will be.
//
// The expected magnitude is modelled as s = 2^L with
//     L = tensor + w . (row, column, channel, position) + v . (left, up, previous, kernel, above),
// where the first four are factors learned for every row, column (channel and kernel position),
// channel and kernel position of this tensor, and the last five compare magnitudes nearby with what
// the first four expect of them. Everything follows the score of a geometric distribution of mean
// s, d log P(m) / d log s = (m - s) / (1 + s): factors by their accumulated Fisher information
// s / (1 + s) (a running mean of log-ratios), the weights w and v by gradient descent. The weights
// are handed on from tensor to tensor, one set for each class of kernels and kernel position.
//
// Where there is a trellis, magnitudes are those of codes, not of indices, and s is of their
// halves: as large as an index, but the same for both grids.
//
// Units: logarithms in 2^-12 (see fixed_log.hpp), magnitudes in 2^-12, weights in 2^-16.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "coding/fixed_log.hpp"
#include "coding/tensor_walk.hpp"

namespace tersor {

// Magnitudes around a position, 0 where the matrix ends.
struct Magnitudes {
    std::uint32_t left, left2;        // before it in the row
    std::uint32_t up, up2;            // same column, rows above
    std::uint32_t up_left, up_right;  // diagonal
    std::uint32_t previous;           // same kernel position, previous channel (kernels only)
    std::uint32_t above;              // the pixel above in a square kernel
    std::uint32_t kernel;             // sum over this kernel so far (kernels only)
};

class ScaleWeights {
  public:
    static constexpr std::size_t kFactors = 4;
    static constexpr std::size_t kInputs = 9;
    using Set = std::array<std::int32_t, kInputs>;

    ScaleWeights() noexcept;
    Set& at(const Place& place) noexcept { return sets_[place.kind][place.tap]; }

    std::int32_t tensor = 0;  // where the next tensor starts

  private:
    std::array<std::array<Set, kTaps>, kKernelKinds> sets_;
};

// A scale as it was predicted for one position.
struct Scale {
    int log;               // L
    std::int64_t mean;     // s, at least 2^-9
    int row, column;       // the factors
    std::int64_t inverse;  // 2^24 / (1 + s)
};

// Predicts one tensor. For every position: predict, then learn.
class ScalePredictor {
  public:
    ScalePredictor(ScaleWeights& weights, const TensorShape& shape);

    void start_row() noexcept {
        row_ = {};
        ++rows_;
    }
    Scale predict(const Place& place, const Magnitudes& near) noexcept;
    // `magnitude` is what came at the place that was predicted last.
    void learn(const Place& place, const Scale& scale, std::uint32_t magnitude) noexcept;

  private:
    struct Factor {
        std::int32_t log = 0;
        std::int32_t information = 0;  // in 2^-8
    };
    static void learn(Factor& factor, int prior, std::int64_t score, std::int32_t information);

    ScaleWeights& weights_;
    Factor tensor_;
    Factor row_;
    std::vector<Factor> columns_;
    std::vector<Factor> channels_;
    std::vector<Factor> positions_;
    std::size_t width_;
    unsigned point_;  // a magnitude of 1 is 2^point
    std::size_t rows_ = 0;
    std::array<std::int32_t, ScaleWeights::kInputs> inputs_{};  // of the last prediction
};

namespace scale_detail {

// How many observations' worth of information a factor is held at 0 with, before it has seen any.
inline constexpr int kTensorPrior = 1;
inline constexpr int kRowPrior = 6;
inline constexpr int kColumnPrior = 8;
inline constexpr int kChannelPrior = 8;
inline constexpr int kPositionPrior = 10;
inline constexpr std::int32_t kMostInformation = 400 << 8;  // older observations are forgotten

// 1 / (1/4 of an observation) in 2^-20, for the information in quarters.
inline constexpr auto kInverses = [] {
    std::array<std::int32_t, 4 * 420> inverses{};
    for (std::size_t i = 0; i < inverses.size(); ++i) {
        inverses[i] = (1 << 22) / (static_cast<std::int32_t>(i) + 1);
    }
    return inverses;
}();

inline constexpr std::int64_t kOne = 1 << 12;        // a magnitude of 1
inline constexpr std::size_t kDenseInputs = 6;       // the others are of kernels
inline constexpr std::int64_t kMostScore = 5 << 11;  // 2.5: an outlier says no more
inline constexpr int kLogLimit = 15 * kLogOne;
inline constexpr int kWeightShift = 15;
inline constexpr std::int32_t kLeastWeight = -(1 << 16);
inline constexpr std::int32_t kMostWeight = 1 << 18;
inline constexpr std::uint64_t kPriorWeight =
    8;  // of the expected magnitude against one that was seen, x 4

inline const int kOfOne = fixed_log2(8 + 4);
inline const int kOfThree = fixed_log2(8 + 4 * 3);

// log2 of (8 expected + 4 seen) / ((8 + 4 count) expected), the logarithm of 8 + 4 count given.
inline int evidence(std::int64_t expected, int log_expected, std::uint64_t seen,
                    int log_weight) noexcept {
    const std::uint64_t sum = kPriorWeight * static_cast<std::uint64_t>(expected) + 4 * seen;
    return fixed_log2(sum) - log_expected - log_weight;
}

}  // namespace scale_detail

inline Scale ScalePredictor::predict(const Place& place, const Magnitudes& near) noexcept {
    using namespace scale_detail;
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
        const std::uint64_t magnitude = static_cast<std::uint64_t>(seen) << point_;
        return there ? evidence(expected, log_expected, magnitude, log_weight) : 0;
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
    const std::int64_t mean = std::max<std::int64_t>(fixed_exp2(log, 12), 8);
    // What learning needs is worked out here, where it can overlap with the coding.
    const int log_above = fixed_log2(static_cast<std::uint64_t>(kOne + mean));
    return {log, mean, x[0], x[1], fixed_exp2(-log_above, 36)};
}

inline void ScalePredictor::learn(Factor& factor, int prior, std::int64_t score,
                                  std::int32_t information) {
    using namespace scale_detail;
    const std::size_t quarters =
        static_cast<std::size_t>(factor.information >> 6) + 4 * static_cast<std::size_t>(prior);
    factor.log += static_cast<std::int32_t>(rounded_shift(score * kInverses[quarters], 20));
    factor.log = std::clamp(factor.log, -kLogLimit, kLogLimit);
    factor.information = std::min(factor.information + information, kMostInformation);
}

inline void ScalePredictor::learn(const Place& place, const Scale& scale,
                                  std::uint32_t magnitude) noexcept {
    using namespace scale_detail;
    // From 1 / (1 + s) come the score and the information.
    const std::int64_t error = (static_cast<std::int64_t>(magnitude) << point_) - scale.mean;
    const std::int64_t score = std::clamp(error * scale.inverse >> 24, -kMostScore, kMostScore);
    const auto information = static_cast<std::int32_t>(256 - (scale.inverse >> 16));

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
