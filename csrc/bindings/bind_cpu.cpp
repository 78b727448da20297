#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>

#include "bindings/bindings.hpp"
#include "cpu.hpp"

namespace nb = nanobind;

namespace tersor::bindings {
namespace {

Isa parse_isa(const std::string& name) {
    for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
        if (name == isa_name(isa)) return isa;
    }
    throw std::invalid_argument("unknown instruction set '" + name +
                                "': expected scalar, avx2 or avx512");
}

}  // namespace

void bind_cpu(nb::module_& m) {
    m.def("active_isa", [] { return std::string(isa_name(active_isa())); });
    m.def("detected_isa", [] { return std::string(isa_name(detected_isa())); });
    m.def(
        "force_isa",
        [](const std::string& name) {
            if (!force_isa(parse_isa(name))) {
                throw std::invalid_argument("this CPU does not offer '" + name + "', only " +
                                            std::string(isa_name(detected_isa())));
            }
        },
        nb::arg("name"));
}

}  // namespace tersor::bindings
