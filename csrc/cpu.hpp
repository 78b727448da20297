// Which instruction set the kernels use: found at run time, or forced.
#pragma once

#include <string_view>

namespace tersor {

enum class Isa { scalar = 0, avx2 = 1, avx512 = 2 };

// The best instruction set that this CPU and this build offer.
Isa detected_isa() noexcept;

// The instruction set in force: the forced one, else the detected one.
Isa active_isa() noexcept;

// Forces `isa` for all later calls. Returns false, and changes nothing, if the CPU lacks it.
bool force_isa(Isa isa) noexcept;

std::string_view isa_name(Isa isa) noexcept;

}  // namespace tersor
