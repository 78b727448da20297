#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/buffer.hpp"
#include "container/blake3.hpp"
#include "container/text_coder.hpp"
#include "container/text_dictionary.hpp"
#include "container/xxh3.hpp"

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

nb::bytes compress_text(nb::handle data) {
    const ReadBuffer buffer(data);
    std::vector<uint8_t> blob;
    {
        nb::gil_scoped_release release;
        blob = text::compress(buffer.bytes());
    }
    return nb::bytes(blob.data(), blob.size());
}

// None if the blob is not one of a text of `size` bytes.
nb::object decompress_text(nb::handle blob, size_t size) {
    const ReadBuffer buffer(blob);
    const auto signed_size = static_cast<Py_ssize_t>(size);
    auto result = nb::steal<nb::object>(PyBytes_FromStringAndSize(nullptr, signed_size));
    if (!result.is_valid()) throw nb::python_error();
    // No one else knows the object yet, so it may be filled.
    const std::span text(reinterpret_cast<uint8_t*>(PyBytes_AS_STRING(result.ptr())), size);
    bool good;
    {
        nb::gil_scoped_release release;
        good = text::decompress(buffer.bytes(), text);
    }
    return good ? result : nb::none();
}

void bind_text(nb::module_& m) {
    m.def("compress_text", &compress_text, nb::arg("data"));
    m.def("decompress_text", &decompress_text, nb::arg("blob"), nb::arg("size"));
    m.attr("text_dictionary") = nb::bytes(text::kDictionary.data(), text::kDictionary.size());
}

void bind_hashes(nb::module_& m) {
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

}  // namespace

void bind_container(nb::module_& m) {
    bind_hashes(m);
    bind_text(m);
}

}  // namespace tersor::bindings
