// rANS with tables by row and column scale (coding/bucket_rans.hpp).
#include "coding/bucket_rans.hpp"

#include "input.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace tersor;
    fuzz::Input input(data, size);
    const fuzz::Storage stored = fuzz::storage(input);
    const MatrixShape shape = fuzz::matrix_shape(input, 1u << 16);
    fuzz::with_type(stored, [&](auto element) {
        using T = decltype(element);
        fuzz::check_symbols<T>(
            input.rest(), shape.elements(), stored.kind,
            [&](ByteView blob, std::span<T> out) {
                return bucket_decode(blob, out, stored.kind, shape);
            },
            [&](std::span<const T> in) {
                return bucket_encode(in, stored.kind, shape, {false, stored.kind.offset});
            });
    });
    return 0;
}
