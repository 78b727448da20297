#include "coding/float_codec.hpp"

#include <algorithm>
#include <memory>
#include <vector>

#include "coding/bucket_rans.hpp"
#include "coding/float_fields.hpp"
#include "coding/float_layout.hpp"
#include "coding/float_plan.hpp"
#include "coding/huffman.hpp"
#include "coding/packed_bits.hpp"
#include "coding/rans.hpp"
#include "coding/register_rans.hpp"
#include "coding/static_coders.hpp"

namespace tersor {
namespace {

constexpr SymbolKind kSymbols{8, 0};
constexpr std::size_t kPiece = 4096;      // symbols that are merged while they are in the cache
constexpr std::size_t kLeastGain = 1024;  // arrays that would shrink by less than this part stay
constexpr std::uint8_t kBuckets = 11;

void append_le32(Bytes& blob, std::size_t value) {
    for (unsigned shift = 0; shift < 32; shift += 8) {
        blob.push_back(static_cast<std::uint8_t>(value >> shift));
    }
}

// Takes a size that must not exceed what follows it.
bool take_size(ByteView& in, std::size_t& size) {
    if (in.size() < 4) return false;
    size = load_le32(in.data());
    in = in.subspan(4);
    return size <= in.size();
}

template <typename Word>
void make_symbols(std::span<const Word> words, const FloatLayout& layout, std::uint8_t* symbols,
                  std::vector<std::uint16_t>& escapes) {
    if (!layout.mapped()) {
        // The common width as a constant: shifts that the compiler knows are fewer.
        const auto cut = [&](unsigned top_bits) {
            for (std::size_t i = 0; i < words.size(); ++i) {
                symbols[i] = static_cast<std::uint8_t>(top_of(words[i], top_bits));
            }
        };
        layout.top_bits == 8 ? cut(8) : cut(layout.top_bits);
        return;
    }
    for (std::size_t i = 0; i < words.size(); ++i) {
        const std::uint32_t top = top_of(words[i], layout.top_bits);
        const std::uint32_t place = top - layout.first_top;
        std::uint32_t symbol = place < kWindow ? place + kFirstTop : kEscape;
        if (top == 0) symbol = kZeroTop;
        symbols[i] = static_cast<std::uint8_t>(symbol);
        if (symbol == kEscape) escapes.push_back(static_cast<std::uint16_t>(top));
    }
}

struct SymbolBlob {
    std::uint8_t method;
    Bytes bytes;
};

SymbolBlob encode_symbols(std::span<const std::uint8_t> symbols, const MatrixShape& shape,
                          bool small) {
    if (small) {
        Bytes bytes = bucket_encode(symbols, kSymbols, shape, {true, 0});
        if (!bytes.empty()) return {kBuckets, std::move(bytes)};
    }
    StaticBlob coded = static_encode(symbols, kSymbols, !small);
    if (coded.method == StaticMethod::raw) coded.bytes.assign(symbols.begin(), symbols.end());
    return {static_cast<std::uint8_t>(coded.method), std::move(coded.bytes)};
}

// The symbols of a blob, in pieces: from a decoder that can stop, or decoded all at once.
class SymbolSource {
  public:
    bool open(std::uint8_t method, ByteView blob, std::size_t count, const MatrixShape& shape) {
        streaming_ = method == static_cast<std::uint8_t>(StaticMethod::register_rans);
        if (streaming_) {
            piece_.reset(new std::uint8_t[kPiece]);
            return decoder_.open(blob, count, kSymbols);
        }
        piece_.reset(new std::uint8_t[count]);
        const std::span<std::uint8_t> all(piece_.get(), count);
        switch (method) {
            case static_cast<std::uint8_t>(StaticMethod::raw):
                return unpack_bits(blob, all, kSymbols);
            case static_cast<std::uint8_t>(StaticMethod::rans):
                return rans_decode(blob, all, kSymbols);
            case static_cast<std::uint8_t>(StaticMethod::huffman):
                return huffman_decode(blob, all, kSymbols);
            case kBuckets:
                return bucket_decode(blob, all, kSymbols, shape);
            default:
                return false;
        }
    }

    // The next `count` <= kPiece symbols, or nullptr; pieces but the last must be kPiece long.
    const std::uint8_t* next(std::size_t count) {
        if (streaming_) {
            return decoder_.decode({piece_.get(), count}) ? piece_.get() : nullptr;
        }
        const std::uint8_t* const at = piece_.get() + done_;
        done_ += count;
        return at;
    }

    bool finished() const noexcept { return !streaming_ || decoder_.finished(); }

  private:
    bool streaming_ = false;
    RegisterDecoder decoder_;
    std::unique_ptr<std::uint8_t[]> piece_;
    std::size_t done_ = 0;
};

// A run with its fields.
struct PlacedRun {
    std::size_t begin;  // first word
    std::size_t end;
    unsigned zeros;
    ByteView fields;
};

// Cuts `in` into the fields of all runs; false if it is too long or too short.
template <typename Word>
bool place_runs(const FloatLayout& layout, const MatrixShape& shape, ByteView in,
                std::vector<PlacedRun>& placed) {
    const std::size_t length = shape.row_length();
    for (const Run& run : runs_of(layout, shape.rows)) {
        placed.push_back({run.begin * length, run.end * length, layout.zeros[run.cls], {}});
    }
    const std::vector<Run> runs = runs_of(layout, shape.rows);
    for (std::size_t cls = 0; cls < layout.zeros.size(); ++cls) {
        const std::uint64_t width = field_bits<Word>(layout.top_bits, layout.zeros[cls]);
        for (std::size_t i = 0; i < runs.size(); ++i) {
            if (runs[i].cls != cls) continue;
            const std::uint64_t bytes = ((placed[i].end - placed[i].begin) * width + 7) / 8;
            if (bytes > in.size()) return false;
            placed[i].fields = in.first(static_cast<std::size_t>(bytes));
            in = in.subspan(static_cast<std::size_t>(bytes));
        }
    }
    return in.empty();
}

// Puts the tops of escaped symbols in; false if there are more of them than `escapes`.
template <typename Word>
bool patch_escapes(const std::uint8_t* symbols, std::span<Word> words, unsigned top_bits,
                   ByteView& escapes) {
    const unsigned shift = kWordBits<Word> - 1 - top_bits;
    const Word kept =
        static_cast<Word>(~(static_cast<std::uint64_t>((1u << top_bits) - 1) << shift));
    for (std::size_t i = 0; i < words.size(); ++i) {
        if (symbols[i] != kEscape) continue;
        if (escapes.size() < 2) return false;
        const std::uint64_t top = load_le16(escapes.data());
        if (top >> top_bits) return false;
        escapes = escapes.subspan(2);
        words[i] = static_cast<Word>((words[i] & kept) | top << shift);
    }
    return true;
}

}  // namespace

template <typename Word>
Bytes float_encode(std::span<const Word> words, const MatrixShape& shape, bool small) {
    FloatLayout layout;
    if (!plan_floats(words, shape, small, layout)) return {};
    std::vector<std::uint16_t> escapes;
    // Kept from call to call: the pages of fresh memory would cost as much time as the coding.
    thread_local std::vector<std::uint8_t> symbols;
    symbols.resize(std::max(symbols.size(), words.size()));
    make_symbols(words, layout, symbols.data(), escapes);
    Bytes blob;
    write_layout(blob, layout);
    const SymbolBlob coded = encode_symbols({symbols.data(), words.size()}, shape, small);
    blob.push_back(coded.method);
    append_le32(blob, coded.bytes.size());
    const std::size_t widest = kWordBits<Word> - layout.top_bits - layout.zeros.front();
    const std::size_t bound = words.size() * widest / 8 + coded.bytes.size();
    const std::size_t raw = words.size() * sizeof(Word);
    if (layout.zeros.size() == 1 && bound > raw - raw / kLeastGain) return {};
    blob.reserve(blob.size() + bound + 2 * escapes.size() + shape.rows + 64);
    blob.insert(blob.end(), coded.bytes.begin(), coded.bytes.end());
    if (layout.mapped()) {
        append_le32(blob, escapes.size());
        for (const std::uint16_t top : escapes) {
            blob.push_back(static_cast<std::uint8_t>(top));
            blob.push_back(static_cast<std::uint8_t>(top >> 8));
        }
    }
    const std::vector<Run> runs = runs_of(layout, shape.rows);
    for (std::size_t cls = 0; cls < layout.zeros.size(); ++cls) {
        for (const Run& run : runs) {
            if (run.cls != cls) continue;
            const std::size_t begin = run.begin * shape.row_length();
            const std::size_t end = run.end * shape.row_length();
            pack_fields(words.subspan(begin, end - begin), layout.top_bits, layout.zeros[cls],
                        blob);
        }
    }
    if (blob.size() > raw - raw / kLeastGain) return {};
    return blob;
}

template <typename Word>
bool float_decode(ByteView blob, std::span<Word> words, const MatrixShape& shape) {
    FloatLayout layout;
    if (words.empty() || words.size() != shape.elements()) return false;
    if (!read_layout(blob, kWordBits<Word>, shape.rows, layout) || blob.empty()) return false;
    const std::uint8_t method = blob[0];
    blob = blob.subspan(1);
    std::size_t size;
    if (!take_size(blob, size)) return false;
    SymbolSource source;
    if (!source.open(method, blob.first(size), words.size(), shape)) return false;
    blob = blob.subspan(size);
    ByteView escapes;
    if (layout.mapped()) {
        if (!take_size(blob, size) || 2 * size > blob.size()) return false;
        escapes = blob.first(2 * size);
        blob = blob.subspan(2 * size);
    }
    std::vector<PlacedRun> runs;
    if (!place_runs<Word>(layout, shape, blob, runs)) return false;
    const TopMap map = layout.map();
    auto run = runs.begin();
    for (std::size_t begin = 0; begin < words.size(); begin += kPiece) {
        const std::size_t end = std::min(words.size(), begin + kPiece);
        const std::uint8_t* const symbols = source.next(end - begin);
        if (symbols == nullptr) return false;
        for (std::size_t at = begin; at < end;) {
            if (at == run->end) ++run;
            const std::size_t stop = std::min(end, run->end);
            merge_fields(std::span(symbols + (at - begin), stop - at), map, run->fields, run->zeros,
                         at - run->begin, words.data() + at);
            at = stop;
        }
        if (layout.mapped() &&
            !patch_escapes(symbols, words.subspan(begin, end - begin), layout.top_bits, escapes)) {
            return false;
        }
    }
    return source.finished() && escapes.empty();
}

template Bytes float_encode<std::uint16_t>(std::span<const std::uint16_t>, const MatrixShape&,
                                           bool);
template Bytes float_encode<std::uint32_t>(std::span<const std::uint32_t>, const MatrixShape&,
                                           bool);
template Bytes float_encode<std::uint64_t>(std::span<const std::uint64_t>, const MatrixShape&,
                                           bool);
template bool float_decode<std::uint16_t>(ByteView, std::span<std::uint16_t>, const MatrixShape&);
template bool float_decode<std::uint32_t>(ByteView, std::span<std::uint32_t>, const MatrixShape&);
template bool float_decode<std::uint64_t>(ByteView, std::span<std::uint64_t>, const MatrixShape&);

}  // namespace tersor
