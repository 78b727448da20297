#include "quantization/sorted_sample.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <utility>

#include "quantization/order_key.hpp"

namespace tersor::kmeans {
namespace {

// Least significant digit first, stable. Item: the key in the low 32 bits, a payload above them if
// there is one.
template <class Item>
void radix_sort(std::vector<Item>& items) {
    constexpr size_t digits = 3, bits = 11, mask = (size_t{1} << bits) - 1;
    std::array<std::array<uint32_t, mask + 1>, digits> counts{};
    for (const Item item : items) {
        const auto key = static_cast<uint32_t>(item);
        for (size_t d = 0; d < digits; ++d) ++counts[d][(key >> (bits * d)) & mask];
    }
    std::vector<Item> other(items.size());
    for (size_t d = 0; d < digits; ++d) {
        auto& count = counts[d];
        if (std::ranges::find(count, items.size()) != count.end()) continue;
        uint32_t start = 0;
        for (uint32_t& c : count) start += std::exchange(c, start);
        for (const Item item : items) {
            other[count[(static_cast<uint32_t>(item) >> (bits * d)) & mask]++] = item;
        }
        items.swap(other);
    }
}

}  // namespace

SortedSample::SortedSample(std::span<const float> values, std::span<const float> weights,
                           std::optional<double> center) {
    if (weights.empty()) {
        std::vector<uint32_t> keys(values.size());
        std::ranges::transform(values, keys.begin(), order_key);
        radix_sort(keys);
        values_.resize(keys.size());
        std::ranges::transform(keys, values_.begin(), from_key);
    } else {
        std::vector<uint64_t> items;
        items.reserve(values.size());
        for (size_t i = 0; i < values.size(); ++i) {
            if (weights[i] > 0) {
                items.push_back(uint64_t{std::bit_cast<uint32_t>(weights[i])} << 32 |
                                order_key(values[i]));
            }
        }
        radix_sort(items);
        values_.resize(items.size());
        weights_.resize(items.size());
        for (size_t i = 0; i < items.size(); ++i) {
            values_[i] = from_key(static_cast<uint32_t>(items[i]));
            weights_[i] = std::bit_cast<float>(static_cast<uint32_t>(items[i] >> 32));
        }
    }
    center_ = center ? *center : values_[values_.size() / 2];
    Cut left{0, 0, 0};
    for (size_t first = 0; first <= size(); first += kBlock) {
        blocks_.push_back(left);
        const Cut block = sums(first, std::min(size(), first + kBlock));
        left = {left.weight + block.weight, left.sum + block.sum, first + kBlock};
    }
}

// Four partial sums, so that the additions overlap; always in the same order.
Cut SortedSample::sums(size_t first, size_t last) const noexcept {
    std::array<double, 4> sum{}, weights{};
    size_t i = first;
    if (weights_.empty()) {
        for (; i + 4 <= last; i += 4) {
            for (size_t l = 0; l < 4; ++l) sum[l] += values_[i + l] - center_;
        }
        for (; i < last; ++i) sum[0] += values_[i] - center_;
        return {static_cast<double>(last - first), (sum[0] + sum[1]) + (sum[2] + sum[3]), last};
    }
    for (; i < last; ++i) {
        weights[i & 3] += weight(i);
        sum[i & 3] += weight(i) * (values_[i] - center_);
    }
    return {(weights[0] + weights[1]) + (weights[2] + weights[3]),
            (sum[0] + sum[1]) + (sum[2] + sum[3]), last};
}

Cut SortedSample::cut(size_t position) const noexcept {
    const Cut& block = blocks_[position / kBlock];
    const Cut rest = sums(block.position, position);
    return {block.weight + rest.weight, block.sum + rest.sum, position};
}

}  // namespace tersor::kmeans
