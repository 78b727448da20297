// Which weights of a row are the largest in magnitude.
#pragma once

#include <cstddef>

namespace tersor {

// Sets keep[i] for the `count` <= size values of largest magnitude and clears the others. Of equal
// magnitudes those at earlier positions are kept. Values are finite.
void keep_largest(const float* values, size_t size, size_t count, bool* keep);

}  // namespace tersor
