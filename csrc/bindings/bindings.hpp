#pragma once

#include <nanobind/nanobind.h>

namespace tersor::bindings {

void bind_cpu(nanobind::module_& m);
void bind_container(nanobind::module_& m);
void bind_coding(nanobind::module_& m);
void bind_quantization(nanobind::module_& m);
void bind_fit(nanobind::module_& m);
void bind_disguise(nanobind::module_& m);
void bind_calibration(nanobind::module_& m);

}  // namespace tersor::bindings
