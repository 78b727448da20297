#include "bindings.hpp"

namespace nb = nanobind;

namespace tersor::bindings {

void bind_coding(nb::module_& m) { (void)m; }

}  // namespace tersor::bindings
