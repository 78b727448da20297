#include "coding/scale_predictor.hpp"

namespace tersor {

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
      width_(shape.width),
      point_(shape.states > 1 ? 11 : 12) {
    if (shape.kernel > 1) {
        channels_.resize(shape.channels);
        positions_.resize(shape.kernel);
    }
}

}  // namespace tersor
