// The Python module tersor._core. One bind_*.cpp a room; this file only gathers them.
#include "bindings/bindings.hpp"

NB_MODULE(_core, m) {
    tersor::bindings::bind_cpu(m);
    tersor::bindings::bind_container(m);
    tersor::bindings::bind_coding(m);
    tersor::bindings::bind_quantization(m);
    tersor::bindings::bind_fit(m);
    tersor::bindings::bind_disguise(m);
    tersor::bindings::bind_calibration(m);
}
