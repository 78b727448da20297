"""How fast and how good is k-means of a million numbers? Against scikit-learn and the exact package kmeans1d.

Run: python -m benchmarks.kmeans
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import kmeans1d
import numpy as np
from sklearn.cluster import KMeans

from benchmarks.harness import timed
from benchmarks.machine import write_results
from tersor.quantization.kmeans import kmeans

VALUES, CLUSTERS = 1_000_000, 16

Clustering = tuple[np.ndarray, np.ndarray]  # centroids (K,), codes (n,)


def ours(x: np.ndarray) -> Clustering:
    result = kmeans(x, CLUSTERS)
    return result.centroids, result.codes


def sklearn(x: np.ndarray) -> Clustering:
    fitted = KMeans(CLUSTERS, n_init=1, random_state=0).fit(x[:, None])
    return fitted.cluster_centers_[:, 0], fitted.labels_


def exact_package(x: np.ndarray) -> Clustering:
    codes, centroids = kmeans1d.cluster(x, CLUSTERS)
    return np.array(centroids), np.array(codes)


def measure(method: Callable[[np.ndarray], Clustering], x: np.ndarray, repeats: int) -> dict[str, float]:
    """Best wall-clock seconds of `repeats` runs, and the sum of squared errors in float64."""
    (centroids, codes), seconds = timed(lambda: method(x), repeats)
    error = x.astype(np.float64) - centroids.astype(np.float64)[codes]
    return {"seconds": seconds, "sse": float((error**2).sum())}


def main() -> None:
    rng = np.random.default_rng(0)
    samples = {"normal": rng.normal(size=VALUES), "laplace": rng.laplace(size=VALUES)}
    rows = []
    print(f"{CLUSTERS}-means of {VALUES:,} float32 values; all methods on the cores that they choose")
    print(f"{'data':8} {'method':24} {'ms':>9} {'of sklearn':>11} {'SSE / exact - 1':>16}")
    for name, sample in samples.items():
        x = sample.astype(np.float32)
        results = {
            "tersor": measure(ours, x, 10),
            "scikit-learn n_init=1": measure(sklearn, x, 3),
            "kmeans1d": measure(exact_package, x, 1),
        }
        for method, result in results.items():
            ratio = results["scikit-learn n_init=1"]["seconds"] / result["seconds"]
            excess = result["sse"] / results["kmeans1d"]["sse"] - 1
            print(f"{name:8} {method:24} {result['seconds'] * 1e3:9.1f} {f'1/{ratio:.1f}':>11} {excess:16.1e}")
            rows.append({"data": name, "method": method, **result, "speedup": ratio, "excess": excess})
    versions = {package: version(package) for package in ("scikit-learn", "kmeans1d")}
    write_results("kmeans", {"values": VALUES, "clusters": CLUSTERS, "peers": versions, "rows": rows})


if __name__ == "__main__":
    main()
