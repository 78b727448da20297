// BLAKE3 and XXH3: the same from every instruction set, and however the bytes are cut.
#include "container/blake3.hpp"
#include "container/xxh3.hpp"
#include "input.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace tersor;
    fuzz::Input input(data, size);
    const std::size_t cut = input.number(2, 0xffff);
    const std::size_t repeats = input.number(1, 31) + 1;
    std::vector<std::uint8_t> bytes;
    for (std::size_t i = 0; i < repeats; ++i) {
        bytes.insert(bytes.end(), input.rest().begin(), input.rest().end());
    }
    const std::span<const std::uint8_t> view(bytes);
    const std::size_t first = cut < view.size() ? cut : view.size();
    Blake3 whole;
    whole.update(view);
    const std::uint64_t sum = xxh3_64(view);
    force_isa(Isa::scalar);
    Blake3 parts;
    parts.update(view.first(first));
    parts.update(view.subspan(first));
    REQUIRE(xxh3_64(view) == sum);
    force_isa(detected_isa());
    REQUIRE(parts.digest() == whole.digest());
    return 0;
}
