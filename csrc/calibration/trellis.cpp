#include "calibration/trellis.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "coding/trellis_states.hpp"
#include "cpu.hpp"

namespace tersor {
namespace {

// Columns whose errors reach the rest of the row together. Every residual still gets its
// subtractions in the order of the columns, so that the size of a block changes no bit.
constexpr size_t kBlock = 32;
constexpr size_t kTile = 64;

// A path that may become a survivor.
struct Candidate {
    double cost;
    float error;
    int16_t code;
    uint16_t parent;  // slot
};

// The step that led to a survivor.
struct Step {
    float error;
    int16_t code;
    uint16_t parent;  // slot
};

// What a survivor carries through a block.
struct Path {
    alignas(32) std::array<float, kBlock> residual;  // u, of the block's columns still to come
    double cost;
};

// The code of the class that is nearest to `value`; of two, the larger magnitude. `value` may be
// anything, NaN included.
inline int nearest(float value, const CodeClass& codes, float limit) {
    float magnitude = std::fabs(value);
    magnitude = magnitude < limit ? magnitude : limit;
    if (codes.zero && magnitude < 0.5f * static_cast<float>(codes.offset)) return 0;
    const float steps =
        (magnitude - static_cast<float>(codes.offset)) * (1.0f / static_cast<float>(codes.step)) +
        0.5f;
    int code = static_cast<int>(steps) * codes.step + codes.offset;
    if (static_cast<float>(code) > limit) code -= codes.step;
    return value < 0 ? -code : code;
}

// Working memory of a thread, and the search itself. Slot s * survivors + i is the i-th best path
// in state s.
class RowSearch {
  public:
    RowSearch(const TrellisRows& weight, const TrellisSearch& search,
              std::span<const TrellisState> states)
        : weight_(weight),
          states_(states),
          survivors_(static_cast<size_t>(search.survivors)),
          limit_(static_cast<float>(search.limit)),
          slots_(states.size() * survivors_),
          paths_(slots_),
          next_paths_(slots_),
          residuals_(weight.feedback ? slots_ * weight.length : 0),
          next_residuals_(residuals_.size()),
          errors_(slots_ * kBlock),
          ancestors_(slots_),
          steps_(slots_ * weight.length),
          candidates_(slots_),
          counts_(states.size()),
          next_counts_(states.size()) {}

    // Returns the row's cost. Kernels: of whichever instruction set.
    template <class Kernels>
    double run(size_t row, int16_t* codes) {
        const size_t length = weight_.length;
        const size_t group = row / weight_.rows;
        values_ = weight_.values + row * length;
        kept_ = weight_.kept ? weight_.kept + row * length : nullptr;
        feedback_ = weight_.feedback ? weight_.feedback + group * length * length : nullptr;
        precision_ = weight_.precision + group * length;
        std::ranges::fill(counts_, 0);
        counts_[0] = 1;
        paths_[0].cost = 0;
        if (feedback_) std::copy_n(values_, length, residuals_.data());
        for (size_t begin = 0; begin < length; begin += kBlock) {
            const size_t end = std::min(begin + kBlock, length);
            load(begin, end);
            for (size_t j = begin; j < end; ++j) {
                choose(j, begin);
                advance<Kernels>(j, begin, end);
            }
            if (feedback_ && end < length) spread<Kernels>(begin, end);
        }
        return trace(codes);
    }

  private:
    // The block's residuals, into the paths.
    void load(size_t begin, size_t end) {
        for_each_path([&](size_t slot) {
            const float* from = feedback_ ? residuals_.data() + slot * weight_.length : values_;
            std::copy(from + begin, from + end, paths_[slot].residual.begin());
        });
    }

    // The best continuations by column j, sorted in each state. Of equal ones the earlier slot
    // wins.
    void choose(size_t j, size_t begin) {
        std::ranges::fill(next_counts_, 0);
        const bool pruned = kept_ && !kept_[j];
        const double precision = precision_[j];
        for (size_t state = 0; state < states_.size(); ++state) {
            const TrellisState& machine = states_[state];
            for (size_t i = 0; i < counts_[state]; ++i) {
                const size_t slot = state * survivors_ + i;
                const float value = paths_[slot].residual[j - begin];
                if (pruned) {
                    offer(state, slot, value, 0, precision);
                    continue;
                }
                for (size_t parity = 0; parity < 2; ++parity) {
                    const int code = nearest(value, machine.classes[parity], limit_);
                    const float error = value - static_cast<float>(code);
                    offer(machine.next[parity], slot, error, code, precision);
                }
            }
        }
    }

    // Inserts a path into the sorted survivors of `state`, if it is among the best.
    void offer(size_t state, size_t slot, float error, int code, double precision) {
        const double squared = static_cast<double>(error) * static_cast<double>(error);
        const double cost = paths_[slot].cost + squared * precision;
        Candidate* list = candidates_.data() + state * survivors_;
        size_t at = next_counts_[state];
        if (at == survivors_) {
            if (!(cost < list[at - 1].cost)) return;
            --at;
        } else {
            ++next_counts_[state];
        }
        for (; at > 0 && cost < list[at - 1].cost; --at) list[at] = list[at - 1];
        list[at] = {cost, error, static_cast<int16_t>(code), static_cast<uint16_t>(slot)};
    }

    // Makes the candidates the paths, and feeds their errors to the rest of the block.
    template <class Kernels>
    void advance(size_t j, size_t begin, size_t end) {
        std::swap(counts_, next_counts_);
        const size_t at = j + 1 - begin;
        const size_t left = end - j - 1;
        for_each_path([&](size_t slot) {
            const Candidate& chosen = candidates_[slot];
            const float* from = paths_[chosen.parent].residual.data() + at;
            float* to = next_paths_[slot].residual.data() + at;
            if (feedback_) {
                Kernels::subtract(chosen.error, feedback_ + j * weight_.length + j + 1, from, left,
                                  to);
            } else {
                std::copy_n(from, left, to);
            }
            next_paths_[slot].cost = chosen.cost;
            steps_[j * slots_ + slot] = {chosen.error, chosen.code, chosen.parent};
        });
        std::swap(paths_, next_paths_);
    }

    // Feeds the block's errors to the columns after it.
    template <class Kernels>
    void spread(size_t begin, size_t end) {
        const size_t length = weight_.length;
        for_each_path([&](size_t slot) {
            size_t at = slot;
            for (size_t j = end; j-- > begin;) {
                const Step& step = steps_[j * slots_ + at];
                errors_[slot * kBlock + j - begin] = step.error;
                at = step.parent;
            }
            ancestors_[slot] = at;
        });
        for (size_t tile = end; tile < length; tile += kTile) {
            const size_t width = std::min(kTile, length - tile);
            const float* rows = feedback_ + begin * length + tile;
            for_each_path([&](size_t slot) {
                const std::span errors(errors_.data() + slot * kBlock, end - begin);
                const float* from = residuals_.data() + ancestors_[slot] * length + tile;
                Kernels::subtract_all(errors, rows, length, from, width,
                                      next_residuals_.data() + slot * length + tile);
            });
        }
        std::swap(residuals_, next_residuals_);
    }

    // The codes of the best path; returns its cost.
    double trace(int16_t* codes) const {
        size_t best = 0;
        double least = std::numeric_limits<double>::infinity();
        bool found = false;
        for (size_t state = 0; state < states_.size(); ++state) {
            for (size_t i = 0; i < counts_[state]; ++i) {
                const size_t slot = state * survivors_ + i;
                if (!found || paths_[slot].cost < least) {
                    least = paths_[slot].cost;
                    best = slot;
                    found = true;
                }
            }
        }
        for (size_t j = weight_.length; j-- > 0;) {
            const Step& step = steps_[j * slots_ + best];
            codes[j] = step.code;
            best = step.parent;
        }
        return least;
    }

    template <class Visit>
    void for_each_path(Visit&& visit) const {
        for (size_t state = 0; state < states_.size(); ++state)
            for (size_t i = 0; i < counts_[state]; ++i) visit(state * survivors_ + i);
    }

    const TrellisRows& weight_;
    std::span<const TrellisState> states_;
    size_t survivors_;
    float limit_;
    size_t slots_;
    std::vector<Path> paths_;
    std::vector<Path> next_paths_;
    std::vector<float> residuals_;  // (slots, N), as of the start of the block
    std::vector<float> next_residuals_;
    std::vector<float> errors_;      // (slots, kBlock), of each path in the block that ended
    std::vector<size_t> ancestors_;  // the slot of each path at the start of that block
    std::vector<Step> steps_;        // (N, slots)
    std::vector<Candidate> candidates_;
    std::vector<size_t> counts_;  // survivors of each state
    std::vector<size_t> next_counts_;
    const float* values_ = nullptr;
    const uint8_t* kept_ = nullptr;
    const float* feedback_ = nullptr;
    const double* precision_ = nullptr;
};

// to[k] = from[k] - error * row[k]
[[gnu::always_inline]] inline void subtract_body(float error, const float* row, const float* from,
                                                 size_t count, float* __restrict to) {
    for (size_t k = 0; k < count; ++k) to[k] = from[k] - error * row[k];
}

// to[k] = from[k] - errors[0] * rows[0][k] - errors[1] * rows[1][k] - ..., from left to right.
[[gnu::always_inline]] inline void subtract_all_body(std::span<const float> errors,
                                                     const float* rows, size_t stride,
                                                     const float* from, size_t width,
                                                     float* __restrict to) {
    constexpr size_t kLanes = 16;  // held in registers through all rows
    size_t k = 0;
    for (; k + kLanes <= width; k += kLanes) {
        float sums[kLanes];
        for (size_t l = 0; l < kLanes; ++l) sums[l] = from[k + l];
        for (size_t i = 0; i < errors.size(); ++i) {
            const float* row = rows + i * stride + k;
            for (size_t l = 0; l < kLanes; ++l) sums[l] -= errors[i] * row[l];
        }
        for (size_t l = 0; l < kLanes; ++l) to[k + l] = sums[l];
    }
    for (; k < width; ++k) {
        float sum = from[k];
        for (size_t i = 0; i < errors.size(); ++i) sum -= errors[i] * rows[i * stride + k];
        to[k] = sum;
    }
}

struct Portable {
    static void subtract(float error, const float* row, const float* from, size_t count,
                         float* to) {
        subtract_body(error, row, from, count, to);
    }
    static void subtract_all(std::span<const float> errors, const float* rows, size_t stride,
                             const float* from, size_t width, float* to) {
        subtract_all_body(errors, rows, stride, from, width, to);
    }
};

#if defined(__x86_64__)
struct Avx2 {
    [[gnu::target("avx2")]] static void subtract(float error, const float* row, const float* from,
                                                 size_t count, float* to) {
        subtract_body(error, row, from, count, to);
    }
    [[gnu::target("avx2")]] static void subtract_all(std::span<const float> errors,
                                                     const float* rows, size_t stride,
                                                     const float* from, size_t width, float* to) {
        subtract_all_body(errors, rows, stride, from, width, to);
    }
};
#endif

template <class Kernels>
void run_rows(const TrellisRows& weight, const TrellisSearch& search, size_t begin, size_t end,
              int16_t* codes, double* costs) {
    const std::span<const TrellisState> states = trellis_machine(search.states);
    RowSearch rows(weight, search, states);
    for (size_t row = begin; row < end; ++row) {
        costs[row] = rows.run<Kernels>(row, codes + row * weight.length);
    }
}

}  // namespace

void trellis_quantize(const TrellisRows& weight, const TrellisSearch& search, size_t begin,
                      size_t end, int16_t* codes, double* costs) {
#if defined(__x86_64__)
    if (active_isa() != Isa::scalar) {
        run_rows<Avx2>(weight, search, begin, end, codes, costs);
        return;
    }
#endif
    run_rows<Portable>(weight, search, begin, end, codes, costs);
}

}  // namespace tersor
