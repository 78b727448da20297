#include "coding/trellis_path.hpp"

namespace tersor {
namespace {

// Calls work(i, path) at every kept position, in order; stops where it returns false. The position
// of that, or `count`.
template <typename Work>
std::size_t along_paths(std::size_t count, std::size_t row_length, unsigned states,
                        std::span<const std::uint8_t> kept, Work work) {
    TrellisPath path(states);
    std::size_t row_end = row_length;
    for (std::size_t i = 0; i < count; ++i) {
        if (i == row_end) {
            path.start_row();
            row_end += row_length;
        }
        if (!work(i, path, kept.empty() || kept[i] != 0)) return i;
    }
    return count;
}

}  // namespace

template <typename T>
std::optional<std::size_t> trellis_indices(std::span<const T> codes, std::size_t row_length,
                                           unsigned states, std::span<const std::uint8_t> kept,
                                           std::span<T> indices) {
    const std::size_t end = along_paths(codes.size(), row_length, states, kept,
                                        [&](std::size_t i, TrellisPath& path, bool there) {
                                            indices[i] = 0;
                                            if (!there) return true;
                                            const auto index = path.index(codes[i]);
                                            if (!index) return false;
                                            indices[i] = static_cast<T>(*index);
                                            path.advance(*index);
                                            return true;
                                        });
    if (end == codes.size()) return std::nullopt;
    return end;
}

template <typename T>
bool trellis_codes(std::span<T> indices, std::size_t row_length, unsigned states, unsigned bits,
                   std::span<const std::uint8_t> kept) {
    const std::int32_t half = 1 << (bits - 1);
    return along_paths(indices.size(), row_length, states, kept,
                       [&](std::size_t i, TrellisPath& path, bool there) {
                           const std::int32_t index = indices[i];
                           indices[i] = 0;
                           if (!there) return true;
                           const std::int32_t code = path.code(index);
                           if (code < -half || code >= half) return false;
                           indices[i] = static_cast<T>(code);
                           path.advance(index);
                           return true;
                       }) == indices.size();
}

template std::optional<std::size_t> trellis_indices<std::int8_t>(std::span<const std::int8_t>,
                                                                 std::size_t, unsigned,
                                                                 std::span<const std::uint8_t>,
                                                                 std::span<std::int8_t>);
template std::optional<std::size_t> trellis_indices<std::int16_t>(std::span<const std::int16_t>,
                                                                  std::size_t, unsigned,
                                                                  std::span<const std::uint8_t>,
                                                                  std::span<std::int16_t>);
template bool trellis_codes<std::int8_t>(std::span<std::int8_t>, std::size_t, unsigned, unsigned,
                                         std::span<const std::uint8_t>);
template bool trellis_codes<std::int16_t>(std::span<std::int16_t>, std::size_t, unsigned, unsigned,
                                          std::span<const std::uint8_t>);

}  // namespace tersor
