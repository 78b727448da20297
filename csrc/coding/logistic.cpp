#include "coding/logistic.hpp"

namespace tersor {
namespace {

// 2^16 / (1 + exp(-x)) for x = -8, -7.5, ..., 8.
constexpr std::array<std::int32_t, 33> kSigmoid = {
    22,    36,    60,    98,    162,   267,   439,   720,   1179,  1921,  3108,
    4971,  7812,  11955, 17625, 24743, 32768, 40793, 47911, 53581, 57724, 60565,
    62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514};

constexpr LogisticTables make_tables() {
    LogisticTables tables{};
    for (std::size_t i = 0; i < tables.squash.size(); ++i) {
        const std::size_t below = i >> 7;
        const std::int32_t part = i & 127;
        tables.squash[i] = static_cast<std::uint16_t>(
            (kSigmoid[below] * (128 - part) + kSigmoid[below + 1] * part + 64) >> 7);
    }
    int logit = -kMaxLogit;
    for (std::size_t p = 0; p < tables.stretch.size(); ++p) {
        const auto squashed = [&] {
            return tables.squash[static_cast<std::size_t>(logit + kMaxLogit + 1)];
        };
        while (logit < kMaxLogit && squashed() < p * 16 + 8) ++logit;
        tables.stretch[p] = static_cast<std::int16_t>(logit);
    }
    return tables;
}

}  // namespace

constexpr LogisticTables kLogistic = make_tables();

}  // namespace tersor
