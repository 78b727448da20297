// Context mixing of symbols (coding/adaptive.hpp): two streams, one after the other with one state,
// all symbols kept or every third one left out, as they are or as indices of a trellis.
#include "coding/adaptive.hpp"

#include <array>

#include "input.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace tersor;
    constexpr std::uint32_t kMost = 1u << 10;
    fuzz::Input input(data, size);
    const fuzz::Storage stored = fuzz::storage(input);
    const std::size_t count = input.number(2, kMost - 1) + 1;
    Neighbourhood near{input.number(2, kMost) + 1, input.number(1, 255) + 1};
    near.states = std::array{1u, 4u, 8u}[input.number(1, 2)];
    const std::size_t slot = input.number(1, CodingState::kSlots - 1);
    const bool masked = input.number(1, 1) != 0;
    std::vector<std::uint8_t> kept(masked ? count : 0, 1);
    for (std::size_t i = 0; i < kept.size(); i += 3) kept[i] = 0;
    const std::size_t first = input.number(2, 0xffff);
    const ByteView blobs = input.rest();
    const std::size_t cut = first < blobs.size() ? first : blobs.size();
    fuzz::with_type(stored, [&](auto element) {
        using T = decltype(element);
        CodingState before;
        for (const ByteView blob : {blobs.first(cut), blobs.subspan(cut)}) {
            CodingState after;
            fuzz::check_symbols<T>(
                blob, count, stored.kind,
                [&](ByteView coded, std::span<T> out) {
                    after = before;
                    return adaptive_decode(coded, out, stored.kind, near, slot, kept, after);
                },
                [&](std::span<const T> in) {
                    CodingState state = before;
                    return adaptive_encode(in, stored.kind, near, slot, kept, state);
                });
            before = after;
        }
    });
    return 0;
}
