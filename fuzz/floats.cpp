// Arrays of floats (coding/float_codec.hpp).
#include "coding/float_codec.hpp"
#include "input.hpp"

namespace {

template <typename Word>
void check(tersor::ByteView blob, const tersor::MatrixShape& shape, bool small) {
    using namespace tersor;
    std::vector<Word> words(shape.elements());
    const bool good = float_decode(blob, std::span<Word>(words), shape);
    force_isa(Isa::scalar);
    std::vector<Word> twin(words.size());
    REQUIRE(float_decode(blob, std::span<Word>(twin), shape) == good);
    force_isa(detected_isa());
    if (!good) return;
    REQUIRE(words == twin);
    const Bytes again = float_encode(std::span<const Word>(words), shape, small);
    if (again.empty()) return;
    REQUIRE(float_decode(again, std::span<Word>(twin), shape));
    REQUIRE(words == twin);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    tersor::fuzz::Input input(data, size);
    const std::uint32_t width = input.number(1, 2);
    const bool small = input.number(1, 1) != 0;
    const tersor::MatrixShape shape = tersor::fuzz::matrix_shape(input, 1u << 15);
    if (width == 0) check<std::uint16_t>(input.rest(), shape, small);
    if (width == 1) check<std::uint32_t>(input.rest(), shape, small);
    if (width == 2) check<std::uint64_t>(input.rest(), shape, small);
    return 0;
}
