// Static rANS (coding/rans.hpp).
#include "coding/rans.hpp"

#include "input.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace tersor;
    fuzz::check_coder(
        data, size,
        [](ByteView blob, auto out, SymbolKind kind) { return rans_decode(blob, out, kind); },
        [](auto in, SymbolKind kind) { return rans_encode(in, kind); });
    return 0;
}
