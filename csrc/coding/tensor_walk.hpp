// Where a coder is in a tensor of rows x channels x kernel positions, C-contiguous. A column is a
// channel with a kernel position: an element of a row.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace tersor {

// What the predictors learn apart: dense matrices, depthwise kernels, kernels up to 3x3, larger.
inline constexpr std::size_t kKernelKinds = 4;
// Kernel positions that are told apart: those of a 5x5 kernel; the rest count as the last.
inline constexpr std::size_t kTaps = 25;

struct TensorShape {
    std::size_t channels;  // of a row
    std::size_t kernel;
    std::size_t width;  // of a square kernel, else 0
    std::size_t kind;   // below kKernelKinds
    unsigned states;    // of the trellis whose indices the symbols are; 1 for none

    std::size_t row_length() const noexcept { return channels * kernel; }

    // A row that is not made of whole kernels has one kernel position.
    static TensorShape of(std::size_t row_length, std::size_t kernel,
                          unsigned states = 1) noexcept {
        if (row_length % kernel != 0) kernel = 1;
        std::size_t width = 2;
        while (width * width < kernel && width < 16) ++width;
        TensorShape shape{row_length / kernel, kernel, width * width == kernel ? width : 0, 3,
                          states};
        if (kernel <= 9) shape.kind = 2;
        if (shape.channels == 1) shape.kind = 1;
        if (kernel == 1) shape.kind = 0;
        return shape;
    }
};

struct Place {
    std::size_t column;
    std::size_t channel;
    std::size_t position;  // in the kernel
    std::size_t tap;       // min(position, kTaps - 1)
    std::size_t kind;      // of the shape

    static Place start(const TensorShape& shape) noexcept { return {0, 0, 0, 0, shape.kind}; }

    void advance(const TensorShape& shape) noexcept {
        ++column;
        if (++position == shape.kernel) {
            position = 0;
            ++channel;
        }
        tap = std::min(position, kTaps - 1);
    }
};

}  // namespace tersor
