#include "cpu.hpp"

#include <atomic>

namespace tersor {
namespace {

std::atomic<int> forced{-1};

Isa detect() noexcept {
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    // The 512-bit level asks for VBMI and VBMI2 too: the byte permutes and expands that table
    // decoding uses.
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2")) {
        return Isa::avx512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) return Isa::avx2;
#endif
    return Isa::scalar;
}

}  // namespace

Isa detected_isa() noexcept {
    static const Isa isa = detect();
    return isa;
}

Isa active_isa() noexcept {
    const int isa = forced.load(std::memory_order_relaxed);
    return isa < 0 ? detected_isa() : static_cast<Isa>(isa);
}

bool force_isa(Isa isa) noexcept {
    if (isa > detected_isa()) return false;
    forced.store(static_cast<int>(isa), std::memory_order_relaxed);
    return true;
}

std::string_view isa_name(Isa isa) noexcept {
    switch (isa) {
        case Isa::avx512:
            return "avx512";
        case Isa::avx2:
            return "avx2";
        default:
            return "scalar";
    }
}

}  // namespace tersor
