#include "coding/register_rans.hpp"

#include <algorithm>
#include <memory>

#include "coding/histogram.hpp"
#include "coding/rans.hpp"
#include "coding/register_decode.hpp"
#include "coding/register_encode.hpp"

namespace tersor {
namespace {

constexpr std::size_t kPiece = 64 * kRegisterLanes;  // patched while it is in the first cache

void append_le32(Bytes& blob, std::uint64_t value) {
    for (unsigned shift = 0; shift < 32; shift += 8) {
        blob.push_back(static_cast<std::uint8_t>(value >> shift));
    }
}

void append_escapes(Bytes& blob, std::span<const std::uint8_t> symbols, SymbolKind kind,
                    const RegisterEncodeTable& table, std::size_t count) {
    std::vector<std::uint8_t> escapes(count);
    collect_escapes(table, symbols, escapes.data());
    const Bytes stream = rans_encode(std::span<const std::uint8_t>(escapes), kind);
    append_le32(blob, count);
    append_le32(blob, stream.size());
    blob.insert(blob.end(), stream.begin(), stream.end());
}

RegisterLookup make_lookup(const RegisterTable& table, SymbolKind kind) {
    RegisterLookup lookup;
    const AliasLayout layout = lay_out(table);
    lookup.buckets = layout.buckets;
    for (unsigned id = 0; id < table.ids; ++id) {
        lookup.frequencies[id] = table.frequencies[id];
        lookup.symbols[id] = from_index<std::uint8_t>(table.symbols[id], kind);
    }
    for (unsigned bucket = 0; bucket < layout.buckets; ++bucket) {
        const unsigned first = bucket * layout.width;
        const bool full = layout.own[bucket] == layout.width;
        const unsigned own = full ? layout.width - 1 : layout.own[bucket];
        const unsigned rank = full ? layout.width - 1 : layout.first_rank[bucket];
        lookup.alias_slot[bucket] = static_cast<std::uint8_t>(first + own);
        lookup.alias[bucket] = layout.alias[bucket];
        lookup.alias_base[bucket] = static_cast<std::uint8_t>(first + own - rank);
        for (unsigned place = 0; place < layout.width; ++place) {
            const bool is_own = place < own;
            const unsigned id = is_own ? bucket : layout.alias[bucket];
            lookup.slots[first + place] = {
                lookup.frequencies[id],
                static_cast<std::uint8_t>(is_own ? place : rank + place - own), lookup.symbols[id],
                0};
        }
    }
    return lookup;
}

}  // namespace

Bytes register_encode(std::span<const std::uint8_t> symbols, SymbolKind kind,
                      const RegisterPlan& plan) {
    Bytes blob;
    write_register_table(blob, plan.table);
    const RegisterEncodeTable table = make_encode_table(plan.table, kind);
    if (plan.table.escape) append_escapes(blob, symbols, kind, table, plan.escaped);
    const std::size_t capacity = symbols.size() + kEncodeSlack;
    const std::unique_ptr<std::uint8_t[]> buffer(new std::uint8_t[capacity]);
    std::uint8_t* const end = buffer.get() + capacity;
    RegisterStates states;
    states.lanes = register_lanes(symbols.size());
    states.high.fill(1);
    const std::uint8_t* const begin = encode_register_lanes(table, states, symbols, end);
    blob.reserve(blob.size() + 2 * states.lanes + static_cast<std::size_t>(end - begin));
    blob.insert(blob.end(), states.low.begin(), states.low.begin() + states.lanes);
    blob.insert(blob.end(), states.high.begin(), states.high.begin() + states.lanes);
    blob.insert(blob.end(), begin, static_cast<const std::uint8_t*>(end));
    return blob;
}

Bytes register_encode(std::span<const std::uint8_t> symbols, SymbolKind kind) {
    return register_encode(symbols, kind, plan_register(histogram(symbols, kind), kind));
}

bool register_decode(ByteView blob, std::span<std::uint8_t> symbols, SymbolKind kind) {
    RegisterDecoder decoder;
    return decoder.open(blob, symbols.size(), kind) && decoder.decode(symbols) &&
           decoder.finished();
}

bool RegisterDecoder::open_escapes(ByteView& in, std::size_t count, SymbolKind kind) {
    if (in.size() < 8) return false;
    const std::size_t escaped = load_le32(in.data());
    const std::size_t size = load_le32(in.data() + 4);
    in = in.subspan(8);
    if (escaped == 0 || escaped > count || size > in.size()) return false;
    escapes_.assign(escaped + kEscapeSlack, 0);
    if (!rans_decode(in.first(size), std::span(escapes_).first(escaped), kind)) return false;
    next_escape_ = escapes_.data();
    end_of_escapes_ = next_escape_ + escaped;
    in = in.subspan(size);
    return true;
}

bool RegisterDecoder::open(ByteView blob, std::size_t count, SymbolKind kind) {
    good_ = false;
    RegisterTable table;
    if (count == 0 || !read_register_table(blob, kind, table)) return false;
    escapes_.clear();
    next_escape_ = end_of_escapes_ = nullptr;
    if (table.escape) {
        placeholder_ = from_index<std::uint8_t>(table.symbols[table.escape_id()], kind);
        if (!open_escapes(blob, count, kind)) return false;
    }
    const unsigned lanes = register_lanes(count);
    if (blob.size() < 2 * lanes) return false;
    states_.lanes = lanes;
    for (unsigned lane = 0; lane < lanes; ++lane) {
        states_.low[lane] = blob[lane];
        states_.high[lane] = blob[lanes + lane];
        if (states_.high[lane] == 0) return false;
    }
    lookup_ = make_lookup(table, kind);
    left_ = count;
    next_ = blob.data() + 2 * lanes;
    end_ = blob.data() + blob.size();
    in_tail_ = false;
    good_ = true;
    return true;
}

// The end of the data is decoded from a copy with zeros behind it: at most one group reads beyond
// the end, then decoding stops.
void RegisterDecoder::enter_tail() {
    const std::size_t left = static_cast<std::size_t>(end_ - next_);
    tail_.fill(0);
    std::copy_n(next_, left, tail_.data());
    next_ = tail_.data();
    end_ = next_ + left;
    in_tail_ = true;
}

bool RegisterDecoder::decode_piece(std::span<std::uint8_t> out) {
    constexpr std::ptrdiff_t kGroupBytes = kRegisterLanes;  // a group loads no more
    const unsigned lanes = states_.lanes;
    const std::size_t groups = out.size() / lanes;
    const unsigned remainder = static_cast<unsigned>(out.size() % lanes);
    std::size_t done = 0;
    if (!in_tail_ && end_ - next_ >= kGroupBytes) {
        done =
            decode_register_groups(lookup_, states_, next_, end_ - kGroupBytes, out.data(), groups);
    }
    if (!in_tail_ && end_ - next_ < kGroupBytes) enter_tail();
    if (in_tail_) {
        done += decode_register_groups(lookup_, states_, next_, end_, out.data() + done * lanes,
                                       groups - done);
        if (done < groups || next_ > end_) return false;
    }
    std::uint8_t* const rest = out.data() + groups * lanes;
    decode_register_lanes(lookup_, states_, next_, rest, remainder);
    if (next_ > end_) return false;
    return escapes_.empty() || patch_escapes(out, placeholder_, next_escape_, end_of_escapes_);
}

bool RegisterDecoder::decode(std::span<std::uint8_t> out) {
    if (out.size() > left_) return false;
    if (out.size() % kRegisterLanes != 0 && out.size() != left_) return false;
    while (good_ && !out.empty()) {
        const std::span<std::uint8_t> piece = out.first(std::min(out.size(), kPiece));
        good_ = decode_piece(piece);
        left_ -= piece.size();
        out = out.subspan(piece.size());
    }
    return good_;
}

bool RegisterDecoder::finished() const noexcept {
    if (!good_ || left_ > 0 || next_ != end_ || next_escape_ != end_of_escapes_) return false;
    for (unsigned lane = 0; lane < states_.lanes; ++lane) {
        if (states_.low[lane] != 0 || states_.high[lane] != 1) return false;
    }
    return true;
}

}  // namespace tersor
