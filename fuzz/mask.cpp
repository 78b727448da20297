// Context-coded masks (coding/adaptive.hpp).
#include "coding/adaptive.hpp"
#include "input.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace tersor;
    constexpr std::uint32_t kMost = 1u << 12;
    fuzz::Input input(data, size);
    const std::size_t count = input.number(2, kMost - 1) + 1;
    const Neighbourhood near{input.number(2, kMost) + 1, input.number(1, 255) + 1};
    fuzz::check_symbols<std::uint8_t>(
        input.rest(), count, SymbolKind{1, 0},
        [&](ByteView blob, std::span<std::uint8_t> out) {
            CodingState state;
            return mask_decode(blob, out, near, state);
        },
        [&](std::span<const std::uint8_t> in) {
            CodingState state;
            return mask_encode(in, near, state);
        });
    return 0;
}
