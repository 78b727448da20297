// Byte planes (coding/planes.hpp): any bytes are planes; merging and splitting are inverses.
#include "coding/planes.hpp"

#include <algorithm>

#include "input.hpp"

namespace {

template <typename Word>
void check(tersor::ByteView bytes, tersor::WordTransform transform) {
    const std::size_t count = bytes.size() / sizeof(Word);
    const std::vector<std::uint8_t> planes(bytes.begin(), bytes.begin() + count * sizeof(Word));
    std::vector<Word> words(count);
    tersor::merge_planes(planes.data(), count, transform, words.data());
    std::vector<std::uint8_t> back(planes.size());
    tersor::split_planes(words.data(), count, transform, back.data());
    REQUIRE(back == planes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    tersor::fuzz::Input input(data, size);
    const auto transform = static_cast<tersor::WordTransform>(input.number(1, 2));
    check<std::uint8_t>(input.rest(), transform);
    check<std::uint16_t>(input.rest(), transform);
    check<std::uint32_t>(input.rest(), transform);
    check<std::uint64_t>(input.rest(), transform);
    return 0;
}
