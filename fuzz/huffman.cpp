// Canonical Huffman codes (coding/huffman.hpp).
#include "coding/huffman.hpp"

#include "input.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace tersor;
    fuzz::check_coder(
        data, size,
        [](ByteView blob, auto out, SymbolKind kind) { return huffman_decode(blob, out, kind); },
        [](auto in, SymbolKind kind) { return huffman_encode(in, kind); });
    return 0;
}
