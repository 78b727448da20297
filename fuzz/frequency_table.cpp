// Frequency tables (coding/frequency_table.hpp): what is read sums to the scale and is written back
// as something that reads the same.
#include "coding/frequency_table.hpp"

#include "input.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace tersor;
    fuzz::Input input(data, size);
    const SymbolKind kind = fuzz::storage(input).kind;
    BitReader in(input.rest());
    FrequencyTable table;
    if (!read_table(in, kind, table)) return 0;
    const Alphabet& alphabet = table.alphabet;
    REQUIRE(table.frequencies.size() == alphabet.size);
    REQUIRE((alphabet.first + alphabet.size) << alphabet.split <= kind.alphabet());
    std::uint64_t sum = 0;
    for (const std::uint32_t f : table.frequencies) sum += f;
    REQUIRE(sum == std::uint64_t{1} << table.scale_bits);
    Bytes bytes;
    BitWriter out(bytes);
    write_table(out, table, kind);
    out.flush();
    BitReader again{ByteView(bytes)};
    FrequencyTable same;
    REQUIRE(read_table(again, kind, same));
    REQUIRE(same.frequencies == table.frequencies && same.scale_bits == table.scale_bits);
    REQUIRE(same.alphabet.first == alphabet.first);
    return 0;
}
