// Functions for AVX2 beside their scalar twins: TERSOR_AVX2 is defined where the compiler has it.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define TERSOR_AVX2 __attribute__((target("avx2,bmi2,popcnt")))
#endif
