"""nncodec's size/accuracy curves: its whole files, decoded by itself, on the networks of `networks.py`.

    TERSOR_DATA=... python -m benchmarks.nnc [NETWORK ...]      writes benchmarks/results/nnc.json, network by network

Two curves a network. "default": nncodec's own settings (trellis quantization, batch norms kept), its plain coding.
"best": of `CANDIDATES`, the settings whose files are smallest at `LEVELS` of divergence from the float network on the
selection images. The test images are seen once, after that, for every `qp` of the best and every second of the default
settings. None of these settings looks at data.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.curves import Point, bytes_at
from benchmarks.machine import write_results
from benchmarks.networks import Judge, Network, networks
from benchmarks.nncfile import Settings, decode, encode

RESULTS = Path(__file__).parent / "results" / "nnc.json"

DEFAULT = Settings()
CANDIDATES = [
    Settings(use_dq, True, opt_qp, nonweight_qp=-32, lambda_scale=scale, row_skipping=True)
    for use_dq, (opt_qp, scale) in itertools.product((False, True), ((False, 0), (True, 0), (True, 0.05)))
]
"""What probes left open: folding always helped; vectors at 2^-8 and skipped rows cost nothing; block scans (+2 %), a
larger `lambda_scale`, any without `opt_qp` (+1 %), and other lengths of the unary part (+-0.1 %) did not pay."""

LEVELS = (0.02, 0.035, 0.06)
"""Divergences in nats at which settings are compared: where accuracies are 0.3 to 1.2 points below fp32."""
RANGE = (0.006, 0.13)
"""Divergences on the selection images between which the curve is measured: drops of about 0.1 to 2.5 points."""
COARSEST = -16

Row = dict[str, Any]


def sweep(network: Network, settings: Settings, judge: Judge, step: int) -> Iterator[Row]:
    """Rows from coarse steps to fine ones, until the divergence falls below `RANGE`."""
    model = network.build()
    for qp in range(COARSEST, -64, -step):
        row = measure(model, settings, qp, judge)
        if row["kl"] <= 2 * RANGE[1]:
            yield row
        if row["kl"] < RANGE[0]:
            return


def measure(model: torch.nn.Module, settings: Settings, qp: int, judge: Judge) -> Row:
    """One file: its bytes, and the quality of what nncodec decodes from it."""
    blob = encode(model, qp, settings)
    return {"qp": qp, "bytes": len(blob), **dataclasses.asdict(judge(decode(blob, model, settings)))}


def cost(rows: list[Row]) -> float:
    """Geometric mean of the bytes at `LEVELS`; infinite where a level is not reached."""
    points = [(row["bytes"], -math.log(row["kl"])) for row in rows]
    sizes = [bytes_at(points, 0.0, math.log(level)) for level in LEVELS]
    if any(size is None for size in sizes):
        return math.inf
    return math.exp(sum(math.log(size) for size in sizes if size is not None) / len(sizes))


def choose(network: Network) -> tuple[Settings, dict[str, list[int]], list[Row]]:
    """The best settings on the selection images, the `qp`s of both curves, and what was tried."""
    judge = Judge(network, network.selection())
    tried: list[Row] = []
    for settings in [DEFAULT, *CANDIDATES]:
        rows = list(sweep(network, settings, judge, step=2))
        tried.append({"settings": dataclasses.asdict(settings), "cost": cost(rows), "rows": rows})
        print(f"{network.name}: {tried[-1]['cost']:12,.0f} bytes at the levels, {describe(settings)}", flush=True)
    best = min(tried[1:], key=lambda one: one["cost"])
    qps = {
        label: [row["qp"] for row in one["rows"] if RANGE[0] <= row["kl"] <= RANGE[1]]
        for label, one in (("default", tried[0]), ("best", best))
    }
    return Settings(**best["settings"]), qps, tried


def describe(settings: Settings) -> str:
    """What differs from nncodec's defaults."""
    changed = {name: value for name, value in vars(settings).items() if value != getattr(DEFAULT, name)}
    return ", ".join(f"{name}={value}" for name, value in changed.items()) or "defaults"


def report(network: Network, settings: Settings, qps: Sequence[int], label: str, judge: Judge) -> list[Row]:
    """The curve of `settings` on the test images."""
    model = network.build()
    head = {"network": network.name, "curve": label, "settings": dataclasses.asdict(settings)}
    rows = []
    for qp in qps:
        rows.append({**head, **measure(model, settings, qp, judge)})
        print(f"{network.name} {label} qp {qp}: {rows[-1]['bytes']:,} bytes, {rows[-1]['top1']:.2f} %", flush=True)
    return rows


def stored() -> dict[str, Any]:
    """What results/nnc.json holds: {"networks": {name: reference and choice}, "rows": [...]}."""
    if not RESULTS.exists():
        return {"networks": {}, "rows": []}
    return json.loads(RESULTS.read_text())


def curve(network: str, label: str = "best") -> list[Point]:
    """A stored curve, for `curves.bytes_at`: (bytes of the whole file, top-1 in percent)."""
    points = [
        (row["bytes"], row["top1"]) for row in stored()["rows"] if (row["network"], row["curve"]) == (network, label)
    ]
    if not points:
        raise SystemExit(f"results/nnc.json has no {label} curve of {network}: run python -m benchmarks.nnc {network}")
    return points


def reference(network: str) -> float:
    """Stored top-1 of the float network on the test images."""
    return stored()["networks"][network]["top1"]


def again(network: Network, label: str, judge: Judge) -> list[Row]:
    """Measures a stored curve once more: what a comparison does that runs both sides."""
    chosen = stored()["networks"][network.name]["best"]
    qps = [row["qp"] for row in stored()["rows"] if (row["network"], row["curve"]) == (network.name, label)]
    return report(network, Settings(**chosen) if label == "best" else DEFAULT, qps, label, judge)


def run(network: Network) -> None:
    """Measures both curves of a network and puts them into the results."""
    settings, qps, tried = choose(network)
    judge = Judge(network, network.test())
    every = range(max(qps["best"]), min(qps["best"]) - 1, -1)
    rows = report(network, settings, every, "best", judge)
    rows += report(network, DEFAULT, qps["default"], "default", judge)
    results = stored()
    results["networks"][network.name] = {
        "top1": judge.reference.top1,
        "best": dataclasses.asdict(settings),
        "tried": tried,
    }
    results["rows"] = [row for row in results["rows"] if row["network"] != network.name] + rows
    write_results("nnc", {"networks": results["networks"], "rows": results["rows"]})
    for label in ("default", "best"):
        sizes = [bytes_at(curve(network.name, label), judge.reference.top1, drop) for drop in (0.5, 1.0)]
        print(f"{network.name} {label}: " + ", ".join("-" if size is None else f"{size:,.0f}" for size in sizes))


def main() -> None:
    torch.set_num_threads(1)
    found = networks()
    for name in sys.argv[1:] or found:
        run(found[name])


if __name__ == "__main__":
    main()
