#include "quantization/distinct_values.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>

#include "quantization/order_key.hpp"

namespace tersor::kmeans {
namespace {

// A set of keys with open addressing; at most half full. No value has the key 0.
class KeySet {
  public:
    explicit KeySet(size_t limit)
        : shift_(31 - static_cast<unsigned>(std::bit_width(limit - 1))),
          slots_(size_t{1} << (32 - shift_), 0) {}

    // The slot that holds `key`, or the empty one where it belongs.
    size_t find(uint32_t key) const noexcept {
        size_t slot = (key * 0x9E3779B1u) >> shift_;
        while (slots_[slot] != key && slots_[slot] != 0) slot = (slot + 1) & (slots_.size() - 1);
        return slot;
    }

    std::vector<uint32_t>& slots() noexcept { return slots_; }

  private:
    unsigned shift_;
    std::vector<uint32_t> slots_;
};

}  // namespace

std::optional<DistinctValues> distinct_values(std::span<const float> values,
                                              std::span<const float> weights, size_t limit) {
    KeySet set(std::min(limit, values.size()));
    auto& slots = set.slots();
    std::vector<uint32_t> keys;
    for (size_t i = 0; i < values.size(); ++i) {
        if (!weights.empty() && weights[i] == 0) continue;
        const uint32_t key = order_key(values[i]);
        const size_t slot = set.find(key);
        if (slots[slot] == key) continue;
        if (keys.size() == limit) return std::nullopt;
        slots[slot] = key;
        keys.push_back(key);
    }
    std::vector<double> sums(slots.size(), 0.0);
    for (size_t i = 0; i < values.size(); ++i) {
        if (!weights.empty() && weights[i] == 0) continue;
        sums[set.find(order_key(values[i]))] += weights.empty() ? 1.0 : weights[i];
    }
    std::ranges::sort(keys);
    DistinctValues distinct;
    for (const uint32_t key : keys) {
        distinct.values.push_back(from_key(key));
        distinct.weights.push_back(sums[set.find(key)]);
    }
    return distinct;
}

}  // namespace tersor::kmeans
