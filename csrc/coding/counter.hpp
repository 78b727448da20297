// A probability that learns from the decisions it has predicted.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace tersor {

inline constexpr std::uint32_t kCounterLimit = 500;

// How far the n-th update of a counter moves it, in 2^-16: 1 / (n + 1.5).
inline constexpr auto kCounterRates = [] {
    std::array<std::int32_t, kCounterLimit + 1> rates{};
    for (std::size_t n = 0; n < rates.size(); ++n) {
        rates[n] = (1 << 17) / (2 * static_cast<std::int32_t>(n) + 3);
    }
    return rates;
}();

// The mean of the decisions seen (of the latest ones, once it has seen as many as the limit).
// Packed: 22 bits of probability above 10 bits of count. 0 is a counter that knows nothing.
class Counter {
  public:
    constexpr Counter() = default;
    constexpr Counter(std::uint32_t probability16, std::uint32_t seen) noexcept
        : packed_(probability16 << 16 | seen) {}

    bool is_fresh() const noexcept { return packed_ == 0; }
    std::uint32_t probability() const noexcept { return packed_ >> 16; }

    void update(bool decision) noexcept {
        const std::uint32_t count = packed_ & 1023;
        const std::int32_t p = static_cast<std::int32_t>(packed_ >> 10);
        const std::int32_t error = (decision ? (1 << 22) - 1 : 0) - p;
        const std::int32_t step = static_cast<std::int32_t>(
            (static_cast<std::int64_t>(error) * kCounterRates[count]) >> 16);
        packed_ = static_cast<std::uint32_t>(p + step) << 10 |
                  (count < kCounterLimit ? count + 1 : kCounterLimit);
    }

    // Takes another's probability, trusting it as if `most` decisions had been seen at most.
    void inherit(const Counter& other, std::uint32_t most) noexcept {
        packed_ = (other.packed_ & ~1023u) | std::min(other.packed_ & 1023, most);
    }

  private:
    std::uint32_t packed_ = 0;
};

}  // namespace tersor
