"""All benchmarks, one after the other: each needs the machine for itself.

make bench
"""

from __future__ import annotations

from benchmarks import (
    calibrated,
    codec,
    coverage,
    disguise,
    filters,
    int8,
    kmeans,
    language,
    lenet_pruning,
    lossless,
    models,
    nnc,
    resources,
    session_overhead,
    tickets,
)

SCRIPTS = (
    kmeans,
    lossless,
    codec,
    disguise,
    resources,
    models,
    nnc,
    calibrated,
    language,
    coverage,
    lenet_pruning,
    tickets,
    filters,
    int8,
    session_overhead,
)

if __name__ == "__main__":
    for script in SCRIPTS:
        print(f"\n== {script.__name__}")
        script.main()
