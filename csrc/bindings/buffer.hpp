// Read access to any contiguous Python buffer: bytes, bytearray, memoryview, numpy array.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <span>

namespace tersor::bindings {

class ReadBuffer {
  public:
    // Throws the Python error (TypeError, BufferError) if `object` offers no contiguous buffer.
    explicit ReadBuffer(nanobind::handle object) {
        if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0)
            throw nanobind::python_error();
    }
    ~ReadBuffer() { PyBuffer_Release(&view_); }
    ReadBuffer(const ReadBuffer&) = delete;
    ReadBuffer& operator=(const ReadBuffer&) = delete;

    std::span<const uint8_t> bytes() const noexcept {
        return {static_cast<const uint8_t*>(view_.buf), static_cast<size_t>(view_.len)};
    }

  private:
    Py_buffer view_;
};

}  // namespace tersor::bindings
