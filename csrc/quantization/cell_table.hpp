// A sample of numbers with weights in cells of the number line, without sorting it: how much lies
// in each cell, and the points of a few cells when they are asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "quantization/cells.hpp"
#include "quantization/interval_partition.hpp"
#include "quantization/sorted_sample.hpp"

namespace tersor::kmeans {

// The points of neighbouring cells: [first, last) of a sorted sample.
struct Run {
    Cut start;  // what lies left of the run in the whole sample
    size_t first, last;
};

struct Points {
    SortedSample sample;
    std::vector<Run> runs;  // ascending
};

// Indices of cuts: the cells between them.
struct CellRange {
    size_t first, last;
};

// A cell is what shares the leading bits of the key, so values within a cell are equally spaced.
class CellTable {
  public:
    // Points of weight zero are left out. `weights` may be empty: all 1. Both are kept by
    // reference.
    CellTable(std::span<const float> values, std::span<const float> weights);

    // Sums are taken of value - center().
    double center() const noexcept { return center_; }

    // The cells that hold points.
    const Cells& cells() const noexcept { return cells_; }

    // The points of some cells. The ranges ascend and may overlap.
    Points points(std::span<const CellRange> ranges) const;

  private:
    void count_points();
    void sum_weights();

    void add_cell(size_t index, const Cut& end, bool constant);
    uint32_t first_key(size_t index) const noexcept;
    size_t cell(float value) const noexcept;

    std::span<const float> values_, weights_;
    double center_ = 0;
    uint32_t base_ = 0;   // the first key of the first cell
    uint32_t last_ = 0;   // the key of the largest value
    unsigned shift_ = 0;  // of the bits that are equal in a cell
    size_t count_ = 0;    // of cells, with the empty ones
    Cells cells_;
};

}  // namespace tersor::kmeans
