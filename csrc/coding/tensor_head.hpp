// What is said once about a tensor, before its values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "coding/fixed_log.hpp"
#include "coding/tensor_walk.hpp"
#include "coding/weight_model.hpp"

namespace tersor {

// Which rows (or channels) hold no value but 0. `dead` is empty if that is not told.
struct Liveness {
    std::size_t count = 0;
    std::vector<std::uint8_t> dead;

    bool is_dead(std::size_t i) const noexcept { return !dead.empty() && dead[i] != 0; }
};

struct TensorHead {
    std::int32_t least = 0;  // the smallest value that can occur
    std::int32_t most = 0;   // the largest
    bool is_spiked = false;  // 0 is so common that values are not centred on their prediction
    Liveness rows;
    Liveness channels;
};

// A head that nothing has been said about yet.
inline TensorHead blank_head(std::size_t count, const TensorShape& shape) {
    TensorHead head;
    head.rows.count = (count + shape.row_length() - 1) / shape.row_length();
    head.channels.count = shape.channels;
    return head;
}

namespace head_node {
constexpr std::size_t kSpiked = 256;
constexpr std::size_t kRowsTold = 257;
constexpr std::size_t kChannelsTold = 258;
constexpr std::size_t kDead = 259;  // + 1 if the one before is dead
}  // namespace head_node

// What an encoder says about `count` values. Flags of dead rows or channels are told if they cost
// less than the zeros that they save.
template <typename ValueAt>
TensorHead describe(std::size_t count, const TensorShape& shape, std::span<const std::uint8_t> kept,
                    ValueAt value_at) {
    constexpr std::size_t kFlagCost = 5 << 10;  // a bit and a quarter, in 2^-12
    constexpr std::size_t kSpike = 3;  // a Laplace distribution of 1.5 bits has less than 2
    TensorHead head = blank_head(count, shape);
    std::vector<std::uint8_t> row_lives(head.rows.count), channel_lives(head.channels.count);
    std::size_t zeros = 0, ones = 0, coded = 0;
    const auto each = [&](auto work) {
        Place place = Place::start(shape);
        std::size_t row = 0;
        for (std::size_t i = 0; i < count; ++i) {
            if (kept.empty() || kept[i] != 0) work(value_at(i), row, place.channel);
            place.advance(shape);
            if (place.column == shape.row_length()) {
                place = Place::start(shape);
                ++row;
            }
        }
    };
    each([&](std::int32_t value, std::size_t row, std::size_t channel) {
        ++coded;
        zeros += value == 0;
        ones += value == 1 || value == -1;
        row_lives[row] |= value != 0;
        channel_lives[channel] |= value != 0;
    });
    // Predictions pay for indices of a trellis once few of them are small.
    head.is_spiked = shape.states > 1 ? 2 * (zeros + ones + (count - coded)) > count
                                      : zeros + (count - coded) > kSpike * ones;
    std::size_t in_rows = 0, in_channels = 0, outside = 0, zeros_outside = 0;
    each([&](std::int32_t value, std::size_t row, std::size_t channel) {
        const bool row_lives_on = row_lives[row] != 0,
                   channel_lives_on = channel_lives[channel] != 0;
        in_rows += !row_lives_on;
        in_channels += !channel_lives_on;
        outside += row_lives_on && channel_lives_on;
        zeros_outside += row_lives_on && channel_lives_on && value == 0;
    });
    // What a 0 costs where nothing is dead, in 2^-12 bits.
    const int zero_cost = fixed_log2(outside + 1) - fixed_log2(zeros_outside + 1);
    const auto tell = [&](Liveness& told, std::vector<std::uint8_t>& lives, std::size_t saved) {
        if (saved * static_cast<std::size_t>(zero_cost) < told.count * kFlagCost) return;
        for (std::uint8_t& life : lives) life = life == 0;
        told.dead = std::move(lives);
    };
    tell(head.rows, row_lives, in_rows);
    tell(head.channels, channel_lives, in_channels);
    return head;
}

// Codes a number below 2^bits, bits <= 8.
template <typename Coder>
std::uint32_t code_number(Coder& coder, WeightModel& model, unsigned bits, std::uint32_t number) {
    std::uint32_t prefix = 1;
    for (unsigned bit = bits; bit-- > 0;) {
        const bool set = number >> bit & 1;
        prefix =
            prefix << 1 | static_cast<std::uint32_t>(code_alone(coder, model.heads[prefix], set));
    }
    return prefix - (1u << bits);
}

// Codes all of a head but the range of values.
template <typename Coder>
void code_head(Coder& coder, WeightModel& model, TensorHead& head) {
    auto& heads = model.heads;
    head.is_spiked = code_alone(coder, heads[head_node::kSpiked], head.is_spiked);
    const auto code_liveness = [&](Liveness& told, std::size_t node) {
        if (!code_alone(coder, heads[node], !told.dead.empty())) return;
        told.dead.resize(told.count);
        std::size_t before = 0;
        for (std::uint8_t& dead : told.dead) {
            dead = code_alone(coder, heads[head_node::kDead + before], dead != 0);
            before = dead;
        }
    };
    code_liveness(head.rows, head_node::kRowsTold);
    code_liveness(head.channels, head_node::kChannelsTold);
}

}  // namespace tersor
