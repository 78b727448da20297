#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <optional>
#include <stdexcept>

#include "bindings/bindings.hpp"
#include "disguise/distinct_words.hpp"
#include "disguise/grid.hpp"
#include "disguise/probe.hpp"

namespace nb = nanobind;

namespace tersor::bindings {
namespace {

template <typename T>
using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using disguise::GridForm;
using disguise::Numbers;
using disguise::Order;
using disguise::Precision;

template <typename T>
auto span_of(const Vector<T>& vector) {
    return std::span(vector.data(), vector.size());
}

template <typename Word>
uint32_t probe(Vector<const Word> words, size_t rows, size_t length, Numbers kind) {
    if (length == 0 ? words.size() != 0
                    : words.size() % length != 0 || words.size() / length != rows)
        throw std::invalid_argument("words must be rows x length");
    nb::gil_scoped_release release;
    return disguise::probe(span_of(words), rows, length, kind);
}

template <typename Word>
std::optional<size_t> distinct_words(Vector<const Word> words, Order order, bool skip_zeros,
                                     Vector<Word> book, Vector<uint8_t> codes) {
    if (codes.size() != words.size()) throw std::invalid_argument("codes must be as many as words");
    nb::gil_scoped_release release;
    return disguise::distinct_words(span_of(words), order, skip_zeros, span_of(book),
                                    span_of(codes));
}

// Fits runs of `run` values. `fits` tells which ones are on a grid; the others have levels, step
// and offset 0.
void fit_grids(Vector<const float> values, size_t run, GridForm form, Precision precision,
               Vector<int16_t> levels, Vector<float> steps, Vector<float> offsets,
               Vector<uint8_t> fits) {
    const size_t runs = run == 0 ? 0 : values.size() / run;
    if (run == 0 || runs * run != values.size() || levels.size() != values.size() ||
        steps.size() != runs || offsets.size() != runs || fits.size() != runs)
        throw std::invalid_argument("values, runs and results do not agree in size");
    nb::gil_scoped_release release;
    disguise::GridFitter fitter(form, precision);
    for (size_t i = 0; i < runs; ++i) {
        const auto part = span_of(levels).subspan(i * run, run);
        float step = 0, offset = 0;
        const bool good = fitter.fit(span_of(values).subspan(i * run, run), part, step, offset);
        if (!good) std::ranges::fill(part, int16_t{0});
        fits.data()[i] = good;
        steps.data()[i] = good ? step : 0;
        offsets.data()[i] = good ? offset : 0;
    }
}

template <typename Word>
void bind_words(nb::module_& m) {
    m.def("probe_disguise", &probe<Word>, nb::arg("words"), nb::arg("rows"), nb::arg("length"),
          nb::arg("kind"));
    m.def("distinct_words", &distinct_words<Word>, nb::arg("words"), nb::arg("order"),
          nb::arg("skip_zeros"), nb::arg("book"), nb::arg("codes"));
}

}  // namespace

void bind_disguise(nb::module_& m) {
    nb::enum_<Numbers>(m, "Numbers")
        .value("single", Numbers::single)
        .value("half", Numbers::half)
        .value("bfloat", Numbers::bfloat)
        .value("real64", Numbers::real64)
        .value("other", Numbers::other);
    nb::enum_<Order>(m, "Order")
        .value("unsigned_integer", Order::unsigned_integer)
        .value("signed_integer", Order::signed_integer)
        .value("floating", Order::floating);
    nb::enum_<Precision>(m, "Precision")
        .value("single", Precision::single)
        .value("half", Precision::half)
        .value("bfloat", Precision::bfloat);
    nb::enum_<GridForm>(m, "GridForm")
        .value("through_zero", GridForm::through_zero)
        .value("offset", GridForm::offset);
    nb::enum_<disguise::Hint>(m, "Hint", nb::is_arithmetic())
        .value("few", disguise::kFew)
        .value("few_in_row", disguise::kFewInRow)
        .value("zeros", disguise::kZeros)
        .value("bfloat", disguise::kBfloat)
        .value("half", disguise::kHalf)
        .value("single", disguise::kSingle)
        .value("integers", disguise::kIntegers)
        .value("grid", disguise::kGrid);
    m.attr("OTHER_ZERO") = disguise::kOtherZero;
    bind_words<uint8_t>(m);
    bind_words<uint16_t>(m);
    bind_words<uint32_t>(m);
    bind_words<uint64_t>(m);
    m.def("fit_grids", &fit_grids, nb::arg("values"), nb::arg("run"), nb::arg("form"),
          nb::arg("precision"), nb::arg("levels"), nb::arg("steps"), nb::arg("offsets"),
          nb::arg("fits"));
}

}  // namespace tersor::bindings
