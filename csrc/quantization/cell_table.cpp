#include "quantization/cell_table.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <utility>

#include "quantization/order_key.hpp"

namespace tersor::kmeans {
namespace {

constexpr unsigned kCellBits = 17;

struct Extent {
    float lowest, highest;
};

Extent extent(std::span<const float> values, std::span<const float> weights) noexcept {
    // So many at a time, so that compilers can use vectors without changing the order.
    constexpr size_t kLanes = 16;
    std::array<float, kLanes> lowest, highest;
    lowest.fill(std::numeric_limits<float>::max());
    highest.fill(std::numeric_limits<float>::lowest());
    const auto add = [&](float value, size_t lane) {
        lowest[lane] = value < lowest[lane] ? value : lowest[lane];
        highest[lane] = value > highest[lane] ? value : highest[lane];
    };
    size_t i = 0;
    if (weights.empty()) {
        for (; i + kLanes <= values.size(); i += kLanes) {
            for (size_t lane = 0; lane < kLanes; ++lane) add(values[i + lane], lane);
        }
    }
    for (; i < values.size(); ++i) {
        if (weights.empty() || weights[i] > 0) add(values[i], 0);
    }
    return {*std::ranges::min_element(lowest), *std::ranges::max_element(highest)};
}

}  // namespace

CellTable::CellTable(std::span<const float> values, std::span<const float> weights)
    : values_(values), weights_(weights) {
    const auto [lowest, highest] = extent(values, weights);
    const uint32_t low = order_key(lowest), high = order_key(highest);
    const auto width = static_cast<unsigned>(std::bit_width(high - low));
    shift_ = width > kCellBits ? width - kCellBits : 0;
    last_ = high;
    base_ = low >> shift_ << shift_;
    cells_.cuts.push_back({0, 0, 0});
    count_ = ((high - base_) >> shift_) + 1;
    if (weights.empty()) {
        count_points();
    } else {
        sum_weights();
    }
}

uint32_t CellTable::first_key(size_t index) const noexcept {
    return base_ + (static_cast<uint32_t>(index) << shift_);
}

void CellTable::add_cell(size_t index, const Cut& end, bool constant) {
    const uint32_t first = first_key(index), last = first + ((uint32_t{1} << shift_) - 1);
    cells_.low.push_back(from_key(first));
    cells_.high.push_back(from_key(constant ? first : std::min(last, last_)));
    cells_.cuts.push_back(end);
}

size_t CellTable::cell(float value) const noexcept { return (order_key(value) - base_) >> shift_; }

// Sums of the low bits of the keys are integers, so they are exact.
void CellTable::count_points() {
    // The points of a cell above the sum of their low bits in one number: no block overflows
    // either.
    constexpr unsigned kSumBits = 40;
    constexpr size_t kBlock = size_t{1} << 23;
    struct Cell {
        uint64_t points, low_bits;
    };
    const uint32_t base = base_, mask = (uint32_t{1} << shift_) - 1;
    const unsigned shift = shift_;
    std::vector<uint64_t> block(count_);
    std::vector<Cell> blocks(values_.size() > kBlock ? count_ : 0);
    const auto unpack = [&](size_t i) {
        return Cell{block[i] >> kSumBits, block[i] & ((uint64_t{1} << kSumBits) - 1)};
    };
    for (size_t start = 0; start < values_.size(); start += kBlock) {
        for (const float value : values_.subspan(start, std::min(kBlock, values_.size() - start))) {
            const uint32_t key = order_key(value) - base;
            block[key >> shift] += (uint64_t{1} << kSumBits) + (key & mask);
        }
        for (size_t i = 0; i < blocks.size(); ++i) {
            const auto [points, low_bits] = unpack(i);
            blocks[i].points += points;
            blocks[i].low_bits += low_bits;
            block[i] = 0;
        }
    }
    const auto cell = [&](size_t i) { return blocks.empty() ? unpack(i) : blocks[i]; };
    size_t median = 0, left = cell(0).points;
    while (left <= values_.size() / 2) left += cell(++median).points;
    center_ = from_key(first_key(median));
    Cut cut = cells_.cuts[0];
    for (size_t i = 0; i < count_; ++i) {
        const auto [points, low_bits] = cell(i);
        if (points == 0) continue;
        const uint32_t key = first_key(i);
        const double value = from_key(key), spacing = from_key(key + 1) - value;
        cut.weight += static_cast<double>(points);
        cut.sum += static_cast<double>(points) * (value - center_);
        if (low_bits > 0) cut.sum += spacing * static_cast<double>(low_bits);
        cut.position += points;
        add_cell(i, cut, low_bits == 0);
    }
}

void CellTable::sum_weights() {
    struct Cell {
        size_t points = 0;
        double weight = 0, sum = 0;  // of weight * (value - first value of the cell)
        bool constant = true;
    };
    std::vector<Cell> table(count_);
    for (size_t i = 0; i < values_.size(); ++i) {
        if (weights_[i] == 0) continue;
        const size_t at = cell(values_[i]);
        const double weight = weights_[i];
        table[at].points += 1;
        table[at].weight += weight;
        const double offset = static_cast<double>(values_[i]) - from_key(first_key(at));
        table[at].sum += weight * offset;
        table[at].constant &= offset == 0;
    }
    double total = 0;
    for (const Cell& here : table) total += here.weight;
    size_t median = 0;
    for (double left = table[0].weight; left < total / 2;) left += table[++median].weight;
    center_ = from_key(first_key(median));
    Cut cut = cells_.cuts[0];
    for (size_t i = 0; i < count_; ++i) {
        if (table[i].points == 0) continue;
        cut.weight += table[i].weight;
        cut.sum += table[i].weight * (from_key(first_key(i)) - center_) + table[i].sum;
        cut.position += table[i].points;
        add_cell(i, cut, table[i].constant);
    }
}

Points CellTable::points(std::span<const CellRange> ranges) const {
    std::vector<uint8_t> wanted(count_, 0);
    std::vector<Run> runs;
    size_t end = 0, total = 0;
    for (const auto [first, last] : ranges) {
        for (size_t i = std::max(first, end); i < last; ++i) {
            if (runs.empty() || i > end) runs.push_back({cells_.cuts[i], total, total});
            wanted[cell(cells_.low[i])] = 1;
            total += cells_.cuts[i + 1].position - cells_.cuts[i].position;
            runs.back().last = total;
            end = i + 1;
        }
    }
    // One more than is wanted, as each value is written before it is known whether it stays.
    std::vector<float> values(total + 1), weights;
    size_t count = 0;
    if (weights_.empty()) {
        const uint32_t base = base_;
        const unsigned shift = shift_;
        const uint8_t* const table = wanted.data();
        float* const out = values.data();
        for (const float value : values_) {
            out[count] = value;
            count += table[(order_key(value) - base) >> shift];
        }
    } else {
        weights.resize(total);
        for (size_t i = 0; i < values_.size(); ++i) {
            if (weights_[i] == 0 || wanted[cell(values_[i])] == 0) continue;
            values[count] = values_[i];
            weights[count++] = weights_[i];
        }
    }
    values.resize(total);
    return {SortedSample(values, weights, center_), std::move(runs)};
}

}  // namespace tersor::kmeans
