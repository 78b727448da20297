// From predictions and neighbours to contexts: small numbers that select counters.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "coding/scale_predictor.hpp"
#include "coding/value_predictor.hpp"

namespace tersor {

inline constexpr std::size_t kScaleSteps = 128;  // eighths of an octave from 2^-6 on

inline std::size_t scale_step(int log) noexcept {
    return static_cast<std::size_t>(std::clamp((log + 6 * kLogOne) >> 9, 0, 127));
}

// 0..15, two steps an octave.
inline std::size_t level(std::uint32_t sum) noexcept {
    if (sum < 4) return sum;
    const int top = std::bit_width(sum) - 1;
    return std::min<std::size_t>(static_cast<std::size_t>(2 * top) + (sum >> (top - 1) & 1), 15);
}

// Where a path through a trellis is; without one it is in the even grid of one state.
struct GridState {
    unsigned states;
    unsigned state;
    unsigned odd;  // 1 where codes are odd or 0
};

// What is known when a size (the magnitude of a residual) is coded.
struct Outlook {
    Scale scale;
    std::size_t step;  // scale_step(scale.log)
    std::int32_t
        fraction;  // expected residual, in 2^-8: within half of a step, or any (no centring)
    int ratio;     // log2(|fraction| / s), if the fraction is not 0
    GridState grid;
};

inline Outlook outlook_of(const Scale& scale, std::int32_t fraction, GridState grid) noexcept {
    const auto size = static_cast<std::uint64_t>(fraction < 0 ? -fraction : fraction);
    const int ratio = fixed_log2(size + 1) - 8 * kLogOne - scale.log;
    return {scale, scale_step(scale.log), fraction, ratio, grid};
}

// Contexts of the decisions about a size. The ranges lie behind one another in one table; of a
// trellis, each state has its own of the first three, each grid of the others.
class SizeContexts {
  public:
    static constexpr std::size_t kCount = 5;
    static constexpr std::size_t kStep = 0;                    // the scale
    static constexpr std::size_t kLean = kStep + kScaleSteps;  // the expected residual x scale
    static constexpr std::size_t kAround = kLean + 28 * 32;    // magnitudes around x position
    static constexpr std::size_t kFactors =
        kAround + 16 * 32;  // row factor x column factor x scale
    static constexpr std::size_t kClose =
        kFactors + 16 * 16 * 8;  // the kernel so far, or left x up
    static constexpr std::size_t kEnd = kClose + (4 * 16 + 64) * 16;

    // Contexts of a model of trellises of so many states.
    static constexpr std::size_t count(unsigned states) noexcept {
        return states * kFactors + (states > 1 ? 2 : 1) * (kEnd - kFactors);
    }

    std::array<std::size_t, kCount> at;

    SizeContexts(const Place& place, const Magnitudes& near, const Outlook& now) noexcept {
        const std::uint32_t around =
            near.left + near.left2 + near.up + near.previous + near.up_left + near.up_right;
        const std::size_t factors =
            signed_level(now.scale.row) * 16 + signed_level(now.scale.column);
        at[0] = kStep + now.step;
        at[2] = kAround + level(around) * 32 + place.tap;
        at[3] = kFactors + factors * 8 + (now.step >> 4);
        if (place.kind == 0) {
            at[1] = kLean + (12 + level(near.left + near.left2)) * 32 + (now.step >> 2);
            const std::size_t cross = std::min<std::size_t>(level(near.left), 7) * 8 +
                                      std::min<std::size_t>(level(near.up), 7);
            at[4] = kClose + (4 * 16 + cross) * 16 + (now.step >> 3);
        } else {
            const int lean =
                now.fraction == 0 ? 0 : std::clamp((now.ratio + 3 * kLogOne) >> 11, 0, 11);
            at[1] = kLean + static_cast<std::size_t>(lean) * 32 + (now.step >> 2);
            at[4] = kClose + (place.kind * 16 + level(near.kernel)) * 16 + (now.step >> 3);
        }
        const std::size_t by_state = now.grid.state * kFactors;
        const std::size_t by_grid =
            (now.grid.states - 1) * kFactors + now.grid.odd * (kEnd - kFactors);
        for (std::size_t i = 0; i < 3; ++i) at[i] += by_state;
        for (std::size_t i = 3; i < kCount; ++i) at[i] += by_grid;
    }

  private:
    // A factor in quarters of an octave, 0..15.
    static std::size_t signed_level(int log) noexcept {
        return static_cast<std::size_t>(std::clamp((log >> 10) + 8, 0, 15));
    }
};

// Signs around a position: -1, 0, 1; and how its column leans (dense matrices only).
struct Signs {
    int left, up, previous, above;
    std::size_t column;
};

// Contexts of the sign of a residual of known size.
class SignContexts {
  public:
    static constexpr std::size_t kCount = 4;
    static constexpr std::size_t kLean = 0;                 // expected residual / s, size / s
    static constexpr std::size_t kAround = 24 * 2 * 8;      // signs around x kind of kernel
    static constexpr std::size_t kSize = kAround + 4 * 81;  // the size
    static constexpr std::size_t kTap = kSize + 256;        // expected residual / s x position
    static constexpr std::size_t kColumn = kTap + kTaps * 24 * 2;  // the column's leaning x size
    static constexpr std::size_t kEnd = kColumn + ColumnLeanings::kLevels * 4;

    std::array<std::size_t, kCount> at;

    SignContexts(const Place& place, const Signs& signs, const Outlook& now,
                 std::uint32_t size) noexcept {
        const std::size_t lean =
            now.fraction == 0
                ? 0
                : 1 + static_cast<std::size_t>(std::clamp((now.ratio + 4 * kLogOne) >> 10, 0, 22));
        const std::size_t side = now.fraction < 0;
        const int relative = (fixed_log2(size) - now.scale.log + 2 * kLogOne) >> 11;
        at[0] =
            kLean + (lean * 2 + side) * 8 + static_cast<std::size_t>(std::clamp(relative, 0, 7));
        const int around = signs.left * 27 + signs.up * 9 + signs.previous * 3 + signs.above + 40;
        at[1] = kAround + static_cast<std::size_t>(around) * 4 + place.kind;
        at[2] = kSize + std::min<std::size_t>(size, 255);
        at[3] = place.kind == 0 ? kColumn + signs.column * 4 +
                                      std::min<std::size_t>(std::bit_width(size), 4) - 1
                                : kTap + (place.tap * 24 + lean) * 2 + side;
    }
};

}  // namespace tersor
