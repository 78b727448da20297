"""All benchmarks, one after the other: each needs the machine for itself.

make bench
"""

from __future__ import annotations

from benchmarks import calibrated, codec, disguise, kmeans, language, lossless, models, nnc, resources

if __name__ == "__main__":
    for script in (kmeans, lossless, codec, disguise, resources, models, nnc, calibrated, language):
        print(f"\n== {script.__name__}")
        script.main()
