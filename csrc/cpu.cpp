#include "cpu.hpp"

#include <atomic>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#endif

namespace tersor {
namespace {

std::atomic<int> forced{-1};

#if defined(__x86_64__) && defined(__GNUC__)
// Asked of the processor itself: not every compiler knows the feature by name.
bool has_lzcnt() noexcept {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(0x80000001, &a, &b, &c, &d) != 0 && (c & bit_LZCNT) != 0;
}
#endif

Isa detect() noexcept {
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    // The 512-bit level asks for VBMI and VBMI2 too: the byte permutes and expands that table
    // decoding uses.
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2")) {
        return Isa::avx512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && has_lzcnt()) {
        return Isa::avx2;
    }
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
