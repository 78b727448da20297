#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <cstdint>
#include <optional>
#include <stdexcept>

#include "bindings/bindings.hpp"
#include "pruning/magnitude.hpp"
#include "quantization/fit_uniform.hpp"

namespace nb = nanobind;

namespace tersor::bindings {
namespace {

template <class T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

// The grouped rows, after every size has been checked. `groups` is the shape that the steps must
// have.
GroupedRows grouped_rows(const Matrix<const float>& values,
                         const std::optional<Matrix<const bool>>& kept, size_t group_size) {
    require(group_size >= 1, "group_size must be at least 1");
    GroupedRows weight{values.data(), nullptr, values.shape(0), values.shape(1), group_size};
    if (kept) {
        require(kept->shape(0) == weight.rows && kept->shape(1) == weight.length,
                "kept must have the shape of values");
        weight.kept = reinterpret_cast<const uint8_t*>(kept->data());
    }
    return weight;
}

template <class T>
void require_groups(const Matrix<T>& steps, const GroupedRows& weight) {
    require(steps.shape(0) == weight.rows && steps.shape(1) == weight.groups(),
            "scale and zero must be (rows, groups)");
}

void bind_fit_uniform(nb::module_& m) {
    nb::enum_<GridKind>(m, "GridKind")
        .value("symmetric", GridKind::symmetric)
        .value("affine", GridKind::affine)
        .value("positive", GridKind::positive);
    m.def(
        "fit_uniform",
        [](const Matrix<const float>& values, const std::optional<Matrix<const bool>>& kept,
           size_t group_size, int bits, GridKind kind, int step_bits, const Matrix<float>& scale,
           const Matrix<int32_t>& zero) {
            const GroupedRows weight = grouped_rows(values, kept, group_size);
            require(bits >= 1 && bits <= 16, "bits must be 1 to 16");
            require(step_bits >= 1 && step_bits <= 24, "step_bits must be 1 to 24");
            require_groups(scale, weight);
            require_groups(zero, weight);
            nb::gil_scoped_release release;
            fit_uniform(weight, bits, kind, step_bits, scale.data(), zero.data());
        },
        nb::arg("values").noconvert(), nb::arg("kept").noconvert().none(), nb::arg("group_size"),
        nb::arg("bits"), nb::arg("kind"), nb::arg("step_bits"), nb::arg("scale").noconvert(),
        nb::arg("zero").noconvert());
}

template <class Code>
void bind_codes(nb::module_& m) {
    m.def(
        "uniform_codes",
        [](const Matrix<const float>& values, const std::optional<Matrix<const bool>>& kept,
           size_t group_size, int bits, const Matrix<const float>& scale,
           const std::optional<Matrix<const int32_t>>& zero, const Matrix<Code>& codes) {
            const GroupedRows weight = grouped_rows(values, kept, group_size);
            require(bits >= 1 && bits <= static_cast<int>(8 * sizeof(Code)),
                    "bits must fit the codes' dtype");
            require_groups(scale, weight);
            if (zero) require_groups(*zero, weight);
            require(codes.shape(0) == weight.rows && codes.shape(1) == weight.length,
                    "codes must have the shape of values");
            nb::gil_scoped_release release;
            uniform_codes(weight, bits, scale.data(), zero ? zero->data() : nullptr, codes.data());
        },
        nb::arg("values").noconvert(), nb::arg("kept").noconvert().none(), nb::arg("group_size"),
        nb::arg("bits"), nb::arg("scale").noconvert(), nb::arg("zero").noconvert().none(),
        nb::arg("codes").noconvert());
}

void bind_magnitude(nb::module_& m) {
    m.def(
        "keep_largest",
        [](const Matrix<const float>& values, size_t count, const Matrix<bool>& keep) {
            const size_t rows = values.shape(0);
            const size_t length = values.shape(1);
            require(count <= length, "count must not exceed the length of a row");
            require(keep.shape(0) == rows && keep.shape(1) == length,
                    "keep must have the shape of values");
            nb::gil_scoped_release release;
            for (size_t row = 0; row < rows; ++row) {
                keep_largest(values.data() + row * length, length, count,
                             keep.data() + row * length);
            }
        },
        nb::arg("values").noconvert(), nb::arg("count"), nb::arg("keep").noconvert());
}

}  // namespace

void bind_fit(nb::module_& m) {
    bind_fit_uniform(m);
    bind_codes<int8_t>(m);
    bind_codes<int16_t>(m);
    bind_magnitude(m);
}

}  // namespace tersor::bindings
