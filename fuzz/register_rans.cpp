// rANS with tables in registers (coding/register_rans.hpp).
#include "coding/register_rans.hpp"

#include "input.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace tersor;
    constexpr std::uint32_t kMost = 1u << 15;
    fuzz::Input input(data, size);
    const std::uint32_t byte = input.number(1, 15);
    const unsigned bits = byte % 8 + 1;
    const SymbolKind kind{bits, byte < 8 ? 0 : 1u << (bits - 1)};
    const std::size_t count = input.number(2, kMost - 1) + 1;
    fuzz::check_symbols<std::uint8_t>(
        input.rest(), count, kind,
        [&](ByteView blob, std::span<std::uint8_t> out) {
            return register_decode(blob, out, kind);
        },
        [&](std::span<const std::uint8_t> in) { return register_encode(in, kind); });
    return 0;
}
