// The text model of the index (container/text_coder.hpp).
#include "container/text_coder.hpp"
#include "input.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace tersor;
    constexpr std::uint32_t kMost = 1u << 9;
    fuzz::Input input(data, size);
    std::vector<std::uint8_t> text(input.number(2, kMost));
    // Not encoded again: each model is primed with its dictionary, which takes most of the time.
    (void)text::decompress(input.rest(), text);
    return 0;
}
