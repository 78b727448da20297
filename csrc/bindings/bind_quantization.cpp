#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <string>

#include "bindings/bindings.hpp"
#include "quantization/kmeans1d.hpp"

namespace nb = nanobind;

namespace tersor::bindings {
namespace {

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

kmeans::Init parse_init(const std::string& name) {
    if (name == "exact") return kmeans::Init::exact;
    if (name == "linear") return kmeans::Init::linear;
    if (name == "density") return kmeans::Init::density;
    if (name == "random") return kmeans::Init::random;
    throw std::invalid_argument("init must be exact, linear, density or random, not '" + name +
                                "'");
}

void check_values(std::span<const float> values, std::span<const float> weights) {
    if (values.empty()) throw std::invalid_argument("k-means needs at least one value");
    if (!weights.empty() && weights.size() != values.size()) {
        throw std::invalid_argument(std::to_string(values.size()) + " values but " +
                                    std::to_string(weights.size()) + " weights");
    }
    const auto finite = [](float x) { return std::isfinite(x); };
    if (!std::ranges::all_of(values, finite)) {
        throw std::invalid_argument("values must be finite, got NaN or infinity");
    }
    if (!std::ranges::all_of(weights, [&](float w) { return finite(w) && w >= 0; })) {
        throw std::invalid_argument("weights must be finite and not negative");
    }
    if (!weights.empty() && std::ranges::all_of(weights, [](float w) { return w == 0; })) {
        throw std::invalid_argument("at least one weight must be positive");
    }
}

// Writes the codes into `codes`. Returns the centroids as the bytes of float32 numbers, the
// squared error, and whether that is proven to be the least.
nb::tuple kmeans1d(Floats values, std::optional<Floats> weights, size_t clusters,
                   const std::string& init, size_t iterations, uint64_t seed, Bytes codes) {
    const std::span all(values.data(), values.size());
    const std::span<const float> w =
        weights ? std::span(weights->data(), weights->size()) : std::span<const float>();
    if (weights && w.empty()) throw std::invalid_argument("k-means needs at least one value");
    if (clusters < 1 || clusters > 256) {
        throw std::invalid_argument("k must be 1 to 256, not " + std::to_string(clusters));
    }
    if (codes.size() != all.size()) throw std::invalid_argument("codes must be as many as values");
    const kmeans::Options options{clusters, parse_init(init), iterations, seed};
    const std::span out(codes.data(), codes.size());
    kmeans::Result result;
    {
        nb::gil_scoped_release release;
        check_values(all, w);
        result = kmeans::cluster(all, w, options, out);
    }
    const auto& centroids = result.centroids;
    return nb::make_tuple(nb::bytes(centroids.data(), centroids.size() * sizeof(float)), result.sse,
                          result.proven);
}

}  // namespace

void bind_quantization(nb::module_& m) {
    m.def("kmeans1d", &kmeans1d, nb::arg("values"), nb::arg("weights").none(), nb::arg("clusters"),
          nb::arg("init"), nb::arg("iterations"), nb::arg("seed"), nb::arg("codes"));
}

}  // namespace tersor::bindings
