// Packed fields (coding/packed_bits.hpp).
#include "coding/packed_bits.hpp"

#include "input.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace tersor;
    fuzz::check_coder(
        data, size,
        [](ByteView blob, auto out, SymbolKind kind) { return unpack_bits(blob, out, kind); },
        [](auto in, SymbolKind kind) {
            Bytes packed;
            pack_low_bits(in, kind, kind.bits, packed);
            return packed;
        });
    return 0;
}
