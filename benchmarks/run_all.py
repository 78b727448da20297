"""All benchmarks, one after the other: each needs the machine for itself.

make bench
"""

from __future__ import annotations

from benchmarks import codec, disguise, kmeans, lossless, models, resources

if __name__ == "__main__":
    for script in (kmeans, lossless, codec, disguise, resources, models):
        print(f"\n== {script.__name__}")
        script.main()
