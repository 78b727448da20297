#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include <algorithm>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "coding/adaptive.hpp"
#include "coding/bucket_rans.hpp"
#include "coding/float_codec.hpp"
#include "coding/histogram.hpp"
#include "coding/huffman.hpp"
#include "coding/packed_bits.hpp"
#include "coding/planes.hpp"
#include "coding/rans.hpp"
#include "coding/register_rans.hpp"
#include "coding/static_coders.hpp"
#include "coding/trellis_path.hpp"

namespace nb = nanobind;

namespace tersor::bindings {
namespace {

using Blob = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using BytesOut = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ArrayIn = nb::ndarray<nb::ro, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ArrayOut = nb::ndarray<nb::ndim<1>, nb::c_contig, nb::device::cpu>;

nb::bytes to_python(const Bytes& bytes) { return nb::bytes(bytes.data(), bytes.size()); }

ByteView view(const Blob& blob) { return {blob.data(), blob.size()}; }

template <typename T, typename Array>
auto span_of(const Array& array) {
    if constexpr (std::is_same_v<Array, ArrayIn>) {
        return std::span<const T>(static_cast<const T*>(array.data()), array.size());
    } else {
        return std::span<T>(static_cast<T*>(array.data()), array.size());
    }
}

// Calls work(span, kind) with the symbols seen as uint8 or uint16.
template <typename Array, typename Work>
auto with_symbols(const Array& symbols, unsigned bits, Work work) {
    const nb::dlpack::dtype type = symbols.dtype();
    const bool is_signed = type == nb::dtype<std::int8_t>() || type == nb::dtype<std::int16_t>();
    if (bits < 1 || bits > type.bits)
        throw std::invalid_argument("bits do not fit the symbols' dtype");
    const SymbolKind kind{bits, is_signed ? 1u << (bits - 1) : 0};
    if (type == nb::dtype<std::uint8_t>() || type == nb::dtype<std::int8_t>()) {
        return work(span_of<std::uint8_t>(symbols), kind);
    }
    if (type != nb::dtype<std::int16_t>()) {
        throw std::invalid_argument("symbols must be uint8, int8 or int16");
    }
    return work(span_of<std::uint16_t>(symbols), kind);
}

template <typename Work>
nb::bytes encode_with(const ArrayIn& symbols, unsigned bits, Work work) {
    Bytes blob;
    {
        const nb::gil_scoped_release release;
        blob = with_symbols(symbols, bits, [&](auto in, SymbolKind kind) {
            if (in.empty() || !in_range(in, kind)) {
                throw std::invalid_argument(
                    "no symbols, or symbols out of the range of their bits");
            }
            return work(in, kind);
        });
    }
    return to_python(blob);
}

nb::bytes encode_packed(const ArrayIn& symbols, unsigned bits) {
    return encode_with(symbols, bits, [](auto in, SymbolKind kind) {
        Bytes blob;
        pack_low_bits(in, kind, kind.bits, blob);
        return blob;
    });
}

bool decode_packed(const Blob& blob, const ArrayOut& out, unsigned bits) {
    const nb::gil_scoped_release release;
    return with_symbols(out, bits, [&](auto symbols, SymbolKind kind) {
        return unpack_bits(view(blob), symbols, kind);
    });
}

nb::bytes encode_rans(const ArrayIn& symbols, unsigned bits) {
    return encode_with(symbols, bits,
                       [](auto in, SymbolKind kind) { return rans_encode(in, kind); });
}

bool decode_rans(const Blob& blob, const ArrayOut& out, unsigned bits) {
    const nb::gil_scoped_release release;
    return with_symbols(out, bits, [&](auto symbols, SymbolKind kind) {
        return rans_decode(view(blob), symbols, kind);
    });
}

nb::bytes encode_register(const ArrayIn& symbols, unsigned bits) {
    return encode_with(symbols, bits, [](auto in, SymbolKind kind) {
        if constexpr (sizeof(in[0]) == 1) return register_encode(in, kind);
        throw std::invalid_argument("register tables code 8-bit symbols");
        return Bytes();
    });
}

bool decode_register(const Blob& blob, const ArrayOut& out, unsigned bits) {
    const nb::gil_scoped_release release;
    return with_symbols(out, bits, [&](auto symbols, SymbolKind kind) {
        if constexpr (sizeof(symbols[0]) == 1) return register_decode(view(blob), symbols, kind);
        return false;
    });
}

nb::bytes encode_huffman(const ArrayIn& symbols, unsigned bits) {
    return encode_with(symbols, bits,
                       [](auto in, SymbolKind kind) { return huffman_encode(in, kind); });
}

bool decode_huffman(const Blob& blob, const ArrayOut& out, unsigned bits) {
    const nb::gil_scoped_release release;
    return with_symbols(out, bits, [&](auto symbols, SymbolKind kind) {
        return huffman_decode(view(blob), symbols, kind);
    });
}

MatrixShape matrix_shape(std::size_t rows, std::size_t channels, std::size_t kernel,
                         std::size_t count) {
    const MatrixShape shape{rows, channels, kernel};
    if (rows < 1 || channels < 1 || kernel < 1 || shape.elements() != count)
        throw std::invalid_argument("the symbols do not fill their geometry");
    return shape;
}

// The index from which magnitudes are measured: that of zero, or the most frequent one.
template <typename T>
std::uint32_t centre_of(std::span<const T> symbols, SymbolKind kind) {
    if (kind.offset > 0) return kind.offset;
    const Counts counts = histogram(symbols, kind);
    return static_cast<std::uint32_t>(std::max_element(counts.begin(), counts.end()) -
                                      counts.begin());
}

nb::bytes encode_buckets(const ArrayIn& symbols, unsigned bits, std::size_t rows,
                         std::size_t channels, std::size_t kernel, std::size_t limit) {
    const MatrixShape shape = matrix_shape(rows, channels, kernel, symbols.size());
    return encode_with(symbols, bits, [&](auto in, SymbolKind kind) {
        return bucket_encode(in, kind, shape, {false, centre_of(in, kind)}, limit);
    });
}

bool decode_buckets(const Blob& blob, const ArrayOut& out, unsigned bits, std::size_t rows,
                    std::size_t channels, std::size_t kernel) {
    const MatrixShape shape = matrix_shape(rows, channels, kernel, out.size());
    const nb::gil_scoped_release release;
    return with_symbols(out, bits, [&](auto symbols, SymbolKind kind) {
        return bucket_decode(view(blob), symbols, kind, shape);
    });
}

// (number of the method, blob); the blob is empty for raw.
std::pair<int, nb::bytes> encode_static(const ArrayIn& symbols, unsigned bits, bool fast) {
    StaticMethod method = StaticMethod::raw;
    nb::bytes blob = encode_with(symbols, bits, [&](auto in, SymbolKind kind) {
        StaticBlob coded = static_encode(in, kind, fast);
        method = coded.method;
        return std::move(coded.bytes);
    });
    return {static_cast<int>(method), std::move(blob)};
}

unsigned checked_states(unsigned states) {
    if (states != 1 && states != 4 && states != 8)
        throw std::invalid_argument("a trellis has 1, 4 or 8 states");
    return states;
}

Neighbourhood neighbourhood(std::size_t row_length, std::size_t kernel, unsigned states = 1) {
    if (row_length < 1 || kernel < 1)
        throw std::invalid_argument("an empty geometry has no symbols");
    return {row_length, kernel, checked_states(states)};
}

std::size_t checked_slot(std::size_t slot) {
    if (slot >= CodingState::kSlots) throw std::invalid_argument("no such slot for a model");
    return slot;
}

// Which symbols are coded: all if `kept` is None.
using Kept = std::optional<Blob>;

std::span<const std::uint8_t> checked_kept(const Kept& kept, std::size_t count) {
    if (!kept) return {};
    if (kept->size() != count)
        throw std::invalid_argument("kept must have a byte for every symbol");
    return view(*kept);
}

nb::bytes encode_adaptive(const ArrayIn& symbols, unsigned bits, std::size_t row_length,
                          std::size_t kernel, std::size_t slot, CodingState& state,
                          const Kept& kept, unsigned states) {
    const Neighbourhood near = neighbourhood(row_length, kernel, states);
    checked_slot(slot);
    const auto mask = checked_kept(kept, symbols.size());
    return encode_with(symbols, bits, [&](auto in, SymbolKind kind) {
        return adaptive_encode(in, kind, near, slot, mask, state);
    });
}

bool decode_adaptive(const Blob& blob, const ArrayOut& out, unsigned bits, std::size_t row_length,
                     std::size_t kernel, std::size_t slot, CodingState& state, const Kept& kept,
                     unsigned states) {
    const Neighbourhood near = neighbourhood(row_length, kernel, states);
    checked_slot(slot);
    const auto mask = checked_kept(kept, out.size());
    const nb::gil_scoped_release release;
    return with_symbols(out, bits, [&](auto symbols, SymbolKind kind) {
        return adaptive_decode(view(blob), symbols, kind, near, slot, mask, state);
    });
}

// Calls work(span, kind) with signed symbols.
template <typename Array, typename Work>
auto with_signed(const Array& symbols, Work work) {
    if (symbols.dtype() == nb::dtype<std::int8_t>()) return work(span_of<std::int8_t>(symbols));
    if (symbols.dtype() != nb::dtype<std::int16_t>())
        throw std::invalid_argument("codes of a trellis must be int8 or int16");
    return work(span_of<std::int16_t>(symbols));
}

// The position of the first code that is not on the path, or None.
std::optional<std::size_t> trellis_to_indices(const ArrayIn& codes, const ArrayOut& indices,
                                              std::size_t row_length, unsigned states,
                                              const Kept& kept) {
    checked_states(states);
    if (indices.dtype() != codes.dtype() || indices.size() != codes.size() || row_length < 1)
        throw std::invalid_argument("indices must be of the dtype and size of codes, in rows");
    const auto mask = checked_kept(kept, codes.size());
    const nb::gil_scoped_release release;
    return with_signed(codes, [&](auto in) {
        using T = std::remove_const_t<typename decltype(in)::element_type>;
        return trellis_indices<T>(in, row_length, states, mask, span_of<T>(indices));
    });
}

bool trellis_to_codes(const ArrayOut& indices, std::size_t row_length, unsigned states,
                      unsigned bits, const Kept& kept) {
    checked_states(states);
    if (bits < 1 || bits > indices.dtype().bits || row_length < 1)
        throw std::invalid_argument("bits do not fit the codes' dtype");
    const auto mask = checked_kept(kept, indices.size());
    const nb::gil_scoped_release release;
    return with_signed(indices, [&](auto symbols) {
        using T = typename decltype(symbols)::element_type;
        return trellis_codes<T>(symbols, row_length, states, bits, mask);
    });
}

nb::bytes encode_mask(const Blob& mask, std::size_t row_length, std::size_t kernel,
                      CodingState& state) {
    const Neighbourhood near = neighbourhood(row_length, kernel);
    Bytes blob;
    {
        const nb::gil_scoped_release release;
        if (!in_range(view(mask), SymbolKind{1, 0}))
            throw std::invalid_argument("a mask holds 0 and 1 only");
        blob = mask_encode(view(mask), near, state);
    }
    return to_python(blob);
}

bool decode_mask(const Blob& blob, const BytesOut& out, std::size_t row_length, std::size_t kernel,
                 CodingState& state) {
    const Neighbourhood near = neighbourhood(row_length, kernel);
    const nb::gil_scoped_release release;
    return mask_decode(view(blob), {out.data(), out.size()}, near, state);
}

// (entropy in 2^-16 bits, used symbols); throws if symbols leave the range.
std::pair<std::uint64_t, std::size_t> measure(const ArrayIn& symbols, unsigned bits) {
    Counts counts;
    {
        const nb::gil_scoped_release release;
        counts = with_symbols(symbols, bits,
                              [](auto in, SymbolKind kind) { return histogram(in, kind); });
    }
    if (counts.empty()) throw std::invalid_argument("symbols out of the range of their bits");
    std::size_t used = 0;
    for (const std::uint64_t c : counts) used += c > 0;
    return {entropy_fixed(counts), used};
}

// Calls work(words) with the words seen as unsigned integers of their size.
template <typename Array, typename Work>
void with_words(const Array& words, std::size_t plane_bytes, Work work) {
    if (plane_bytes != words.size() * words.itemsize()) {
        throw std::invalid_argument("planes must have one byte for every byte of the words");
    }
    switch (words.itemsize()) {
        case 1:
            return work(span_of<std::uint8_t>(words));
        case 2:
            return work(span_of<std::uint16_t>(words));
        case 4:
            return work(span_of<std::uint32_t>(words));
        case 8:
            return work(span_of<std::uint64_t>(words));
        default:
            throw std::invalid_argument("words must have 1, 2, 4 or 8 bytes");
    }
}

// Calls work(words) with the words of 2, 4 or 8 bytes.
template <typename Array, typename Work>
auto with_floats(const Array& words, Work work) {
    switch (words.itemsize()) {
        case 2:
            return work(span_of<std::uint16_t>(words));
        case 4:
            return work(span_of<std::uint32_t>(words));
        case 8:
            return work(span_of<std::uint64_t>(words));
        default:
            throw std::invalid_argument("words must have 2, 4 or 8 bytes");
    }
}

nb::bytes encode_floats(const ArrayIn& words, std::size_t rows, std::size_t channels,
                        std::size_t kernel, bool small) {
    const MatrixShape shape = matrix_shape(rows, channels, kernel, words.size());
    Bytes blob;
    {
        const nb::gil_scoped_release release;
        blob = with_floats(words, [&](auto in) { return float_encode(in, shape, small); });
    }
    return to_python(blob);
}

bool decode_floats(const Blob& blob, const ArrayOut& out, std::size_t rows, std::size_t channels,
                   std::size_t kernel) {
    const MatrixShape shape = matrix_shape(rows, channels, kernel, out.size());
    const nb::gil_scoped_release release;
    return with_floats(out, [&](auto words) { return float_decode(view(blob), words, shape); });
}

void split(const ArrayIn& words, const BytesOut& planes, int transform) {
    const nb::gil_scoped_release release;
    with_words(words, planes.size(), [&](auto in) {
        split_planes(in.data(), in.size(), static_cast<WordTransform>(transform), planes.data());
    });
}

void merge(const Blob& planes, const ArrayOut& words, int transform) {
    const nb::gil_scoped_release release;
    with_words(words, planes.size(), [&](auto out) {
        merge_planes(planes.data(), out.size(), static_cast<WordTransform>(transform), out.data());
    });
}

}  // namespace

void bind_coding(nb::module_& m) {
    m.def("encode_packed", &encode_packed, nb::arg("symbols"), nb::arg("bits"));
    m.def("decode_packed", &decode_packed, nb::arg("blob"), nb::arg("out"), nb::arg("bits"));
    m.def("encode_rans", &encode_rans, nb::arg("symbols"), nb::arg("bits"));
    m.def("decode_rans", &decode_rans, nb::arg("blob"), nb::arg("out"), nb::arg("bits"));
    m.def("encode_register", &encode_register, nb::arg("symbols"), nb::arg("bits"));
    m.def("decode_register", &decode_register, nb::arg("blob"), nb::arg("out"), nb::arg("bits"));
    m.def("encode_huffman", &encode_huffman, nb::arg("symbols"), nb::arg("bits"));
    m.def("decode_huffman", &decode_huffman, nb::arg("blob"), nb::arg("out"), nb::arg("bits"));
    m.def("encode_buckets", &encode_buckets, nb::arg("symbols"), nb::arg("bits"), nb::arg("rows"),
          nb::arg("channels"), nb::arg("kernel"), nb::arg("limit"));
    m.def("decode_buckets", &decode_buckets, nb::arg("blob"), nb::arg("out"), nb::arg("bits"),
          nb::arg("rows"), nb::arg("channels"), nb::arg("kernel"));
    m.def("encode_static", &encode_static, nb::arg("symbols"), nb::arg("bits"), nb::arg("fast"));
    nb::class_<CodingState>(m, "CodingState")
        .def(nb::init<>())
        .def("copy", [](const CodingState& state) { return CodingState(state); });
    m.def("encode_adaptive", &encode_adaptive, nb::arg("symbols"), nb::arg("bits"),
          nb::arg("row_length"), nb::arg("kernel"), nb::arg("slot"), nb::arg("state"),
          nb::arg("kept") = nb::none(), nb::arg("states") = 1);
    m.def("decode_adaptive", &decode_adaptive, nb::arg("blob"), nb::arg("out"), nb::arg("bits"),
          nb::arg("row_length"), nb::arg("kernel"), nb::arg("slot"), nb::arg("state"),
          nb::arg("kept") = nb::none(), nb::arg("states") = 1);
    m.def("trellis_indices", &trellis_to_indices, nb::arg("codes"), nb::arg("indices"),
          nb::arg("row_length"), nb::arg("states"), nb::arg("kept") = nb::none());
    m.def("trellis_codes", &trellis_to_codes, nb::arg("indices"), nb::arg("row_length"),
          nb::arg("states"), nb::arg("bits"), nb::arg("kept") = nb::none());
    m.def("encode_mask", &encode_mask, nb::arg("mask"), nb::arg("row_length"), nb::arg("kernel"),
          nb::arg("state"));
    m.def("decode_mask", &decode_mask, nb::arg("blob"), nb::arg("out"), nb::arg("row_length"),
          nb::arg("kernel"), nb::arg("state"));
    m.def("measure_symbols", &measure, nb::arg("symbols"), nb::arg("bits"));
    m.def("encode_floats", &encode_floats, nb::arg("words"), nb::arg("rows"), nb::arg("channels"),
          nb::arg("kernel"), nb::arg("small"));
    m.def("decode_floats", &decode_floats, nb::arg("blob"), nb::arg("out"), nb::arg("rows"),
          nb::arg("channels"), nb::arg("kernel"));
    m.def("split_planes", &split, nb::arg("words"), nb::arg("planes"), nb::arg("transform"));
    m.def("merge_planes", &merge, nb::arg("planes"), nb::arg("words"), nb::arg("transform"));
}

}  // namespace tersor::bindings
