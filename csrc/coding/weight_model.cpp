#include "coding/weight_model.hpp"

#include <cmath>
#include <span>

#include "coding/trellis_states.hpp"

namespace tersor {
namespace {

constexpr std::uint32_t kTrust = 20;  // decisions that the prior counts as

Counter counter_of(double probability) {
    const double bounded = std::clamp(probability, 0.0005, 0.9995);
    return {static_cast<std::uint32_t>(bounded * 65536.0), kTrust};
}

}  // namespace

// Before anything is learned, sizes are those of a rounded Laplace distribution of mean size s:
// P(size >= k) = u^(2k - 1), where s = u / (1 - u^2). On the odd grid of a trellis thresholds lie
// half of a step lower: P(size >= k) = u^(2k - 2), and u^(1/2) for k = 1. Only operations that IEEE
// 754 rounds correctly are used, so every machine starts from the same counters.
WeightModel::WeightModel(unsigned states) : sizes_(SizeContexts::count(states) * kSizeNodes) {
    const std::span<const TrellisState> machine = trellis_machine(static_cast<int>(states));
    for (unsigned state = 0; state < states; ++state) {
        const std::size_t first = SizeContexts::kStep + state * SizeContexts::kFactors;
        expect_sizes(&sizes_[first * kSizeNodes], machine[state].is_odd());
    }
    lower_bits_.fill(counter_of(0.5));
    heads.fill(Counter(1u << 15, 0));
    std::fill_n(signs_.begin(), SignContexts::kAround, Counter(1u << 15, 0));
}

void WeightModel::expect_sizes(Counter* nodes, bool odd) {
    constexpr double kEighth = 1.0905077326652577;  // 2^(1/8)
    double s = 0.01631703791171288;                 // 2^(1/16 - 6), the middle of step 0
    for (std::size_t step = 0; step < kScaleSteps; ++step, s *= kEighth, nodes += kSizeNodes) {
        const double u = 2.0 * s / (1.0 + std::sqrt(1.0 + 4.0 * s * s));
        // tail = P(size >= 2^n), for n = 0, 1, ...
        const unsigned likely = likely_width(step);
        double power = u;      // u^(2^n)
        double half = 1.0;     // u^(2^(n - 1))
        double even_tail = u;  // u^(2 2^n - 1)
        double before = 1.0;   // the tail of n - 1
        for (unsigned n = 0; n < 16; ++n) {
            double tail = even_tail, above = power;
            if (odd) {
                tail = n == 0 ? std::sqrt(u) : even_tail / u;
                if (n < 2) above = tail / before;
            }
            // Width above n: size >= 2^n, if size >= 2^(n - 1) or for any size.
            nodes[n] = counter_of(n + 1 == likely ? tail : above);
            if (n > 0) nodes[kDown + n] = counter_of((before - tail) / (1.0 - tail));
            // 2^n sizes: the upper half against the lower is half : 1, and so on.
            upper_bits_[n * 4 + 1][step] = counter_of(power / (1.0 + power));
            upper_bits_[n * 4 + 2][step] = counter_of(half / (1.0 + half));
            upper_bits_[n * 4 + 3][step] = upper_bits_[n * 4 + 2][step];
            half = power;
            power *= power;
            before = tail;
            even_tail *= power;
        }
    }
}

}  // namespace tersor
