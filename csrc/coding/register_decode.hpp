// The lanes of register-table rANS: scalar, and with table lookups by byte shuffles. All give the
// same symbols.
#pragma once

#include <cstddef>
#include <cstdint>

#include "coding/register_rans.hpp"

namespace tersor {

// Decodes up to `groups` groups of kRegisterLanes symbols, while next <= limit, behind which
// kRegisterLanes bytes must be readable; returns how many.
std::size_t decode_register_groups(const RegisterLookup& lookup, RegisterStates& states,
                                   const std::uint8_t*& next, const std::uint8_t* limit,
                                   std::uint8_t* out, std::size_t groups);

// One symbol of the first `lanes` lanes each.
void decode_register_lanes(const RegisterLookup& lookup, RegisterStates& states,
                           const std::uint8_t*& next, std::uint8_t* out, unsigned lanes);

}  // namespace tersor
