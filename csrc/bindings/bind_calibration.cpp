#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <cstdint>
#include <optional>
#include <stdexcept>

#include "bindings/bindings.hpp"
#include "calibration/trellis.hpp"

namespace nb = nanobind;

namespace tersor::bindings {
namespace {

template <class T, size_t Dims>
using Array = nb::ndarray<T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;

void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

template <class T>
bool same_shape(const Array<T, 3>& array, const TrellisRows& weight) {
    return array.shape(0) == weight.groups && array.shape(1) == weight.rows &&
           array.shape(2) == weight.length;
}

TrellisRows trellis_rows(const Array<const float, 3>& values,
                         const std::optional<Array<const bool, 3>>& kept,
                         const std::optional<Array<const float, 3>>& feedback,
                         const Array<const double, 2>& precision) {
    TrellisRows weight{values.data(),   nullptr,         nullptr,        precision.data(),
                       values.shape(0), values.shape(1), values.shape(2)};
    if (kept) {
        require(same_shape(*kept, weight), "kept must have the shape of values");
        weight.kept = reinterpret_cast<const uint8_t*>(kept->data());
    }
    if (feedback) {
        require(feedback->shape(0) == weight.groups && feedback->shape(1) == weight.length &&
                    feedback->shape(2) == weight.length,
                "feedback must be (groups, length, length)");
        weight.feedback = feedback->data();
    }
    require(precision.shape(0) == weight.groups && precision.shape(1) == weight.length,
            "precision must be (groups, length)");
    return weight;
}

void quantize(const Array<const float, 3>& values, const std::optional<Array<const bool, 3>>& kept,
              const std::optional<Array<const float, 3>>& feedback,
              const Array<const double, 2>& precision, const nb::tuple& search, size_t begin,
              size_t end, const Array<int16_t, 3>& codes, const Array<double, 2>& costs) {
    const TrellisRows weight = trellis_rows(values, kept, feedback, precision);
    require(search.size() == 3, "search must be (states, survivors, limit)");
    const TrellisSearch how{nb::cast<int>(search[0]), nb::cast<int>(search[1]),
                            nb::cast<int>(search[2])};
    require(how.states == 1 || how.states == 4 || how.states == 8, "states must be 1, 4 or 8");
    require(how.survivors >= 1 && how.survivors <= kMaxTrellisSurvivors,
            "survivors must be 1 to 16");
    require(how.limit >= 4 && how.limit <= 32767, "limit must be 4 to 32767");
    require(begin <= end && end <= weight.groups * weight.rows, "rows must lie in the weight");
    require(same_shape(codes, weight), "codes must have the shape of values");
    require(costs.shape(0) == weight.groups && costs.shape(1) == weight.rows,
            "costs must be (groups, rows)");
    nb::gil_scoped_release release;
    if (begin < end) trellis_quantize(weight, how, begin, end, codes.data(), costs.data());
}

}  // namespace

void bind_calibration(nb::module_& m) {
    m.def("trellis_quantize", &quantize, nb::arg("values").noconvert(),
          nb::arg("kept").noconvert().none(), nb::arg("feedback").noconvert().none(),
          nb::arg("precision").noconvert(), nb::arg("search"), nb::arg("begin"), nb::arg("end"),
          nb::arg("codes").noconvert(), nb::arg("costs").noconvert());
}

}  // namespace tersor::bindings
