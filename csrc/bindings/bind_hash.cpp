#include "bindings.hpp"

namespace nb = nanobind;

namespace tersor::bindings {

void bind_hash(nb::module_& m) { (void)m; }

}  // namespace tersor::bindings
