#include <optional>
#include <stdexcept>
#include <string>

#include "bindings.hpp"
#include "blake3.hpp"
#include "buffer.hpp"
#include "xxh3.hpp"

namespace nb = nanobind;

namespace tersor::bindings {
namespace {

// Below this many bytes, hashing takes less time than handing over the GIL may cost.
constexpr size_t kGilBytes = 64 * 1024;

template <class Work>
auto without_gil(size_t bytes, Work work) {
    std::optional<nb::gil_scoped_release> release;
    if (bytes > kGilBytes) release.emplace();
    return work();
}

}  // namespace

void bind_hash(nb::module_& m) {
    m.def(
        "xxh3_64",
        [](nb::handle data) {
            const ReadBuffer buffer(data);
            return without_gil(buffer.bytes().size(), [&] { return xxh3_64(buffer.bytes()); });
        },
        nb::arg("data"));

    nb::class_<Blake3>(m, "Blake3")
        .def(nb::init<>())
        .def(
            "update",
            [](Blake3& self, nb::handle data) {
                const ReadBuffer buffer(data);
                without_gil(buffer.bytes().size(), [&] { self.update(buffer.bytes()); });
            },
            nb::arg("data"))
        .def(
            "digest",
            [](const Blake3& self, size_t size) {
                const Blake3::Digest digest = self.digest();
                if (size < 1 || size > digest.size()) {
                    throw std::invalid_argument("a digest has 1 to " +
                                                std::to_string(digest.size()) + " bytes, not " +
                                                std::to_string(size));
                }
                return nb::bytes(digest.data(), size);
            },
            nb::arg("size") = 16);
}

}  // namespace tersor::bindings
