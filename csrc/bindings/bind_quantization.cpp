#include "bindings.hpp"

namespace nb = nanobind;

namespace tersor::bindings {

void bind_quantization(nb::module_& m) { (void)m; }

}  // namespace tersor::bindings
