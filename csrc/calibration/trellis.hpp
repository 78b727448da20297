// Trellis-coded quantization inside error feedback: a Viterbi search over each row's codes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tersor {

inline constexpr int kMaxTrellisSurvivors = 16;

// Weights as groups of rows. G groups, R rows of a group, N weights of a row.
struct TrellisRows {
    const float* values;      // (G, R, N), in units of the row's step; NaN is taken as `limit`
    const uint8_t* kept;      // (G, R, N), 0 where a weight is pruned; or null
    const float* feedback;    // (G, N, N), V: what is above its diagonal is read; or null for none
    const double* precision;  // (G, N): the cost of a squared error of each column
    size_t groups;
    size_t rows;
    size_t length;
};

// states:    1 (no trellis: any integer), 4 or 8.
// survivors: paths that are kept in each state, 1 to kMaxTrellisSurvivors.
// limit:     the largest magnitude of a code, 4 to 32767.
struct TrellisSearch {
    int states;
    int survivors;
    int limit;
};

// Codes q of rows `begin` to `end` of the G * R rows, such that sum_j precision_j d_j^2 is small,
// where d_j = u_j - q_j, and u_k = values_k - sum_{j < k} d_j V_jk, subtracted in this order.
// A row starts in state 0. In even states of 8 (states 0, 1 of 4) q is even, q = 2k; in the others
// q = 2k - sgn k. The parity of k leads to the next state. Pruned weights get the code 0 and do not
// change the state. `costs` (G * R) gets the sum of each row. The result does not depend on the
// instruction set.
void trellis_quantize(const TrellisRows& weight, const TrellisSearch& search, size_t begin,
                      size_t end, int16_t* codes, double* costs);

}  // namespace tersor
