// The lanes of register-table rANS: scalar, and with table lookups by byte shuffles. All give the
// same symbols.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "coding/register_rans.hpp"

namespace tersor {

// Decodes up to `groups` groups of a symbol of each lane, while next <= limit, behind which
// kRegisterLanes bytes must be readable; returns how many.
std::size_t decode_register_groups(const RegisterLookup& lookup, RegisterStates& states,
                                   const std::uint8_t*& next, const std::uint8_t* limit,
                                   std::uint8_t* out, std::size_t groups);

// Replaces each `placeholder` in `symbols` by the next escape and moves `next` on. A group of
// kRegisterLanes symbols may take escapes beyond `end`, behind which so many bytes must be readable
// (kEscapeSlack); false if any was.
inline constexpr std::size_t kEscapeSlack = 2 * kRegisterLanes;
[[nodiscard]] bool patch_escapes(std::span<std::uint8_t> symbols, std::uint8_t placeholder,
                                 const std::uint8_t*& next, const std::uint8_t* end);

// One symbol of the first `lanes` lanes each.
void decode_register_lanes(const RegisterLookup& lookup, RegisterStates& states,
                           const std::uint8_t*& next, std::uint8_t* out, unsigned lanes);

}  // namespace tersor
