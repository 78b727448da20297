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
// Units: logarithms in 2^-12 (see fixed_log.hpp), magnitudes in 2^-12, weights in 2^-16.
#pragma once

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
    int log;            // L
    std::int64_t mean;  // s, at least 2^-9
    int row, column;    // the factors
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
    std::size_t rows_ = 0;
    std::array<std::int32_t, ScaleWeights::kInputs> inputs_{};  // of the last prediction
};

}  // namespace tersor
