#include "coding/register_table.hpp"

#include <algorithm>
#include <vector>

#include "coding/frequency_table.hpp"
#include "coding/histogram.hpp"
#include "coding/register_rans.hpp"

namespace tersor {
namespace {

constexpr unsigned kSlotBits = 8;
constexpr std::uint8_t kEscapeFlag = 0x20;

// What coding with states of 16 bits costs beyond the frequencies, in 2^-16 bits a symbol: a
// hundredth of a bit for many even frequencies, nearly nothing where one prevails. (1 - sum p^2)^2
// follows what was measured.
std::uint64_t state_loss(const RegisterTable& table) noexcept {
    std::uint64_t rest = kSlots * kSlots;
    for (const std::uint64_t f : table.frequencies) rest -= f * f;
    return 655 * rest * rest >> 32;
}

// Patching a symbol takes the time of dozens of others: it must save bits.
constexpr std::uint64_t kEscapePenalty = 4 << 16;

std::uint8_t lowest_without_id(std::span<const std::uint8_t> symbols) noexcept {
    std::uint8_t lowest = 0;
    for (const std::uint8_t symbol : symbols) {
        if (symbol == lowest) ++lowest;
    }
    return lowest;
}

// Ascending indices of the `ids` most frequent symbols; `ranked` is in order of falling counts.
RegisterTable table_of(std::span<const std::uint8_t> ranked, std::span<const std::uint64_t> counts,
                       unsigned proper, std::uint64_t escaped) {
    RegisterTable table;
    table.escape = escaped > 0;
    table.ids = proper + table.escape;
    std::copy_n(ranked.begin(), proper, table.symbols.begin());
    std::sort(table.symbols.begin(), table.symbols.begin() + proper);
    std::vector<std::uint64_t> of_id(table.ids);
    for (unsigned id = 0; id < proper; ++id) of_id[id] = counts[table.symbols[id]];
    if (table.escape) {
        of_id[proper] = escaped;
        table.symbols[proper] =
            lowest_without_id({table.symbols.data(), static_cast<std::size_t>(proper)});
    }
    const std::vector<std::uint32_t> f = normalize(of_id, kSlotBits);
    std::copy(f.begin(), f.end(), table.frequencies.begin());
    return table;
}

// Coded length of the ids in 2^-16 bits, with the table.
std::uint64_t cost_of_ids(const RegisterTable& table, std::span<const std::uint64_t> counts,
                          std::uint64_t escaped) {
    std::uint64_t cost = 0;
    std::uint64_t total = 0;
    for (unsigned id = 0; id < table.ids; ++id) {
        const bool is_escape = table.escape && id == table.escape_id();
        const std::uint64_t count = is_escape ? escaped : counts[table.symbols[id]];
        cost += count * ((kSlotBits << 16) - log2_fixed(table.frequencies[id]));
        total += count;
    }
    // A state takes 16 bits and stands for 4 bits of the symbols, on average.
    const std::uint64_t head = 16ull * table.ids + 12ull * register_lanes(total);
    return cost + total * state_loss(table) + (head << 16);
}

// A stream of one symbol: a second one that never comes gets the least frequency.
RegisterPlan plan_constant(std::uint8_t symbol) {
    RegisterPlan plan;
    const std::uint8_t other = symbol == 0 ? 1 : 0;
    plan.table.ids = 2;
    plan.table.symbols = {std::min(symbol, other), std::max(symbol, other)};
    plan.table.frequencies = {1, 1};
    plan.table.frequencies[symbol > other] = kSlots - 1;
    return plan;
}

}  // namespace

AliasLayout lay_out(const RegisterTable& table) noexcept {
    AliasLayout layout{};
    layout.buckets = table.ids <= 16 ? 16 : 32;
    layout.width = kSlots / layout.buckets;
    std::array<unsigned, kMaxIds> left{};
    std::array<std::uint8_t, kMaxIds> small{};  // ids that do not fill their bucket
    std::array<std::uint8_t, kMaxIds> large{};  // ids with slots for other buckets
    unsigned smalls = 0;
    unsigned larges = 0;
    const auto sort_in = [&](unsigned id) {
        if (left[id] < layout.width) small[smalls++] = static_cast<std::uint8_t>(id);
        if (left[id] > layout.width) large[larges++] = static_cast<std::uint8_t>(id);
    };
    for (unsigned id = 0; id < layout.buckets; ++id) {
        left[id] = id < table.ids ? table.frequencies[id] : 0;
        layout.own[id] = static_cast<std::uint8_t>(layout.width);
        layout.alias[id] = static_cast<std::uint8_t>(id);
        sort_in(id);
    }
    // The sum is that of full buckets: while one lacks slots another has too many.
    while (smalls > 0) {
        const unsigned bucket = small[--smalls];
        const unsigned giver = large[--larges];
        layout.own[bucket] = static_cast<std::uint8_t>(left[bucket]);
        layout.alias[bucket] = static_cast<std::uint8_t>(giver);
        left[giver] -= layout.width - left[bucket];
        sort_in(giver);
    }
    std::array<unsigned, kMaxIds> next_rank{};
    for (unsigned id = 0; id < layout.buckets; ++id) next_rank[id] = layout.own[id];
    for (unsigned bucket = 0; bucket < layout.buckets; ++bucket) {
        unsigned& rank = next_rank[layout.alias[bucket]];
        layout.first_rank[bucket] = static_cast<std::uint8_t>(rank);
        rank += layout.width - layout.own[bucket];
    }
    return layout;
}

RegisterPlan plan_register(std::span<const std::uint64_t> counts, SymbolKind kind) {
    std::vector<std::uint8_t> ranked;
    std::uint64_t total = 0;
    for (std::size_t index = 0; index < counts.size(); ++index) {
        if (counts[index] > 0) ranked.push_back(static_cast<std::uint8_t>(index));
        total += counts[index];
    }
    if (ranked.size() == 1) return plan_constant(ranked[0]);
    std::stable_sort(ranked.begin(), ranked.end(),
                     [&](std::uint8_t a, std::uint8_t b) { return counts[a] > counts[b]; });
    RegisterPlan best;
    std::uint64_t best_price = ~std::uint64_t{0};
    // From most ids down: `rare` holds the counts of the symbols that have lost theirs.
    Counts rare(counts.begin(), counts.end());
    std::uint64_t escaped = total;
    const unsigned most = static_cast<unsigned>(std::min<std::size_t>(ranked.size(), kMaxIds));
    const unsigned start = ranked.size() > kMaxIds ? kMaxIds - 1 : most;
    for (unsigned i = 0; i < start; ++i) {
        escaped -= counts[ranked[i]];
        rare[ranked[i]] = 0;
    }
    for (unsigned proper = start; proper >= 1; --proper) {
        if (escaped >> 32 == 0 && proper + (escaped > 0) <= kMaxIds && proper + (escaped > 0) > 1) {
            const RegisterTable table = table_of(ranked, counts, proper, escaped);
            std::uint64_t cost = cost_of_ids(table, counts, escaped);
            if (escaped > 0) {
                const unsigned symbols = static_cast<unsigned>(ranked.size()) - proper;
                cost += entropy_fixed(rare) + ((12ull + kind.bits * symbols / 8) << 19);
            }
            const std::uint64_t price = cost + escaped * kEscapePenalty;
            if (price >= best_price && proper + 1 < start) break;
            if (price < best_price) {
                best = {table, escaped, cost};
                best_price = price;
            }
        }
        rare[ranked[proper - 1]] = counts[ranked[proper - 1]];
        escaped += counts[ranked[proper - 1]];
    }
    return best;
}

void write_register_table(Bytes& out, const RegisterTable& table) {
    out.push_back(static_cast<std::uint8_t>((table.ids - 1) | (table.escape ? kEscapeFlag : 0)));
    const unsigned proper = table.ids - table.escape;
    out.insert(out.end(), table.symbols.begin(), table.symbols.begin() + proper);
    out.insert(out.end(), table.frequencies.begin(), table.frequencies.begin() + table.ids - 1);
}

bool read_register_table(ByteView& in, SymbolKind kind, RegisterTable& table) {
    if (in.empty() || in[0] >= 2 * kEscapeFlag || kind.bits > 8) return false;
    table.escape = in[0] & kEscapeFlag;
    table.ids = (in[0] & (kEscapeFlag - 1)) + 1u;
    const unsigned proper = table.ids - table.escape;
    if (table.ids < 2 || in.size() < proper + table.ids) return false;
    const std::uint8_t* from = in.data() + 1;
    for (unsigned id = 0; id < proper; ++id) {
        table.symbols[id] = *from++;
        if (table.symbols[id] >= kind.alphabet()) return false;
        if (id > 0 && table.symbols[id] <= table.symbols[id - 1]) return false;
    }
    if (table.escape) {
        if (proper == kind.alphabet()) return false;
        table.symbols[proper] = lowest_without_id({table.symbols.data(), proper});
    }
    unsigned left = kSlots;
    for (unsigned id = 0; id + 1 < table.ids; ++id) {
        const unsigned f = *from++;
        if (f == 0 || f >= left) return false;  // something must be left for the last one
        table.frequencies[id] = static_cast<std::uint8_t>(f);
        left -= f;
    }
    table.frequencies[table.ids - 1] = static_cast<std::uint8_t>(left);
    in = in.subspan(proper + table.ids);
    return true;
}

}  // namespace tersor
