"""Bytes at equal accuracy: ours against nncodec's whole files, read off two size/accuracy curves of one run.

    TERSOR_DATA=... python -m benchmarks.calibrated [--stored] [--mode MODE ...] [NETWORK ...]

writes benchmarks/results/calibrated.json, draw by draw. `--stored` takes nncodec's curves from results/nnc.json (its
encoder is deterministic) instead of running it again; its settings always come from there. A mode is a way for us to
compress, and the function here that does it (`MODES`); goals say which of nncodec's curves it is held against, and by
how much.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import tersor
from benchmarks import nnc
from benchmarks.curves import Point, bytes_at, mean_curve
from benchmarks.machine import write_results
from benchmarks.networks import Judge, Network, networks
from tersor.calibrated import sweep
from tersor.model import CompressedModel

DRAWS = 5
DROPS = (0.5, 1.0)
RESULTS = Path(__file__).parent / "results" / "calibrated.json"

Row = dict[str, Any]
Ours = Callable[[Network, int, Sequence[float]], list[tuple[float, bytes, nn.Module]]]
"""(network, seed of the calibration draw, rates) -> for each rate, in order: seconds of compression, the whole file,
and a model in evaluation mode with the weights that the file holds."""


@dataclass(frozen=True)
class Goal:
    """Our bytes divided by nncodec's `rival` curve must be at most `target`; `moonshot` is what we hope for."""

    mode: str
    network: str
    rival: str
    target: float
    moonshot: float | None = None
    drops: tuple[float, ...] = DROPS


GOALS = [
    Goal("calibrated", "ResNet-20", "best", 0.55, 0.48),
    Goal("calibrated", "ResNet-56", "best", 0.55, 0.48),
    Goal("calibrated", "EfficientNet-Lite0", "best", 0.75, 0.65),
    Goal("plain", "ResNet-20", "default", 0.97),
    Goal("plain", "ResNet-56", "default", 0.97),
    Goal("plain", "EfficientNet-Lite0", "default", 0.97),
    Goal("recovered", "ResNet-20", "best", 0.48, drops=(0.5,)),
]


def uniform(network: Network, seed: int, rates: Sequence[float]) -> list[tuple[float, bytes, nn.Module]]:
    """One width for all layers, no data, entropy coded: what allocation must beat. rates: bits a weight."""
    results = []
    for bits in rates:
        model = network.build()
        start = time.perf_counter()
        compressed = tersor.compress(model, bits=int(bits), threads=1)
        buffer = io.BytesIO()
        tersor.save(compressed, buffer, threads=1)
        seconds = time.perf_counter() - start
        model.load_state_dict(compressed.state_dict())
        results.append((seconds, buffer.getvalue(), model))
    return results


def calibrated(network: Network, seed: int, rates: Sequence[float]) -> list[tuple[float, bytes, nn.Module]]:
    """tersor's calibrated compression. rates: nats of loss per bit."""
    return _swept(network, seed, rates, tersor.Calibrate(seed=seed, **_OPTIONS.get(network.name, {})))


def recovered(network: Network, seed: int, rates: Sequence[float]) -> list[tuple[float, bytes, nn.Module]]:
    """The same, with codes trained on the calibration images."""
    return _swept(network, seed, rates, tersor.Calibrate(seed=seed, recover="codes"))


def plain(network: Network, seed: int, rates: Sequence[float]) -> list[tuple[float, bytes, nn.Module]]:
    """Without any data. rates: bits a weight of the whole file."""
    results = []
    weights = sum(p.numel() for p in network.build().parameters())
    for bits in rates:
        model = network.build()
        start = time.perf_counter()
        compressed = tersor.compress(model, max_bytes=int(bits * weights / 8), threads=1)
        results.append(_filed(compressed, model, start))
    return results


def _swept(
    network: Network, seed: int, rates: Sequence[float], options: tersor.Calibrate
) -> list[tuple[float, bytes, nn.Module]]:
    results = []
    start = time.perf_counter()
    for trial in sweep(network.build(), network.calibration(seed), rates, options=options, threads=1):
        results.append(_filed(CompressedModel(trial.entries), network.build(), start))
        start = time.perf_counter()
    return results


def _filed(compressed: CompressedModel, model: nn.Module, start: float) -> tuple[float, bytes, nn.Module]:
    """Seconds since `start`, the file, and `model` with what it holds."""
    buffer = io.BytesIO()
    tersor.save(compressed, buffer, threads=1)
    seconds, blob = time.perf_counter() - start, buffer.getvalue()
    model.load_state_dict(tersor.load(io.BytesIO(blob)))
    return seconds, blob, model.eval()


_RATES = {
    "ResNet-20": (2.5e-7, 4e-7, 5.5e-7, 7.5e-7, 1.05e-6),
    "ResNet-56": (2.5e-8, 4e-8, 6e-8, 9e-8, 1.4e-7),
    "EfficientNet-Lite0": (1e-9, 2.5e-9, 5e-9, 1e-8, 2e-8),
}

_OPTIONS: dict[str, dict[str, Any]] = {"EfficientNet-Lite0": {"sequential": False}}
"""Of `calibrated`, chosen on selection images: where measuring again behind quantized layers brought nothing."""

MODES: dict[str, tuple[Ours, dict[str, Sequence[float]], int]] = {
    "calibrated": (calibrated, _RATES, DRAWS),
    "recovered": (recovered, {"ResNet-20": (3e-7, 5e-7, 7.5e-7, 1.1e-6, 1.6e-6)}, 3),
    "plain": (
        plain,
        {
            "ResNet-20": (2.4, 2.7, 3, 3.4, 4),
            "ResNet-56": (2.0, 2.3, 2.6, 3, 3.5),
            "EfficientNet-Lite0": (4.0, 4.5, 5, 5.5, 6),
        },
        1,
    ),
    "uniform": (uniform, {"EfficientNet-Lite0": (3, 4, 5, 6, 8), "ResNet-20": (2, 3, 4, 5, 6)}, 1),
}
"""By name: the function, its rates by network (fine to cover drops of 0.1 to 2 points), and the number of draws."""


def measure(mode: str, network: Network, seed: int, judge: Judge) -> list[Row]:
    """One draw of one mode on one network, judged on the test images."""
    compress, rates, _ = MODES[mode]
    chosen = rates[network.name]
    rows = []
    for rate, (seconds, blob, model) in zip(chosen, compress(network, seed, chosen), strict=True):
        head = {"network": network.name, "mode": mode, "seed": seed, "rate": rate}
        quality = dataclasses.asdict(judge(model))
        rows.append({**head, "bytes": len(blob), **quality, "seconds": seconds})
        print(f"{network.name} {mode} draw {seed}: {len(blob):,} bytes, {quality['top1']:.2f} %", flush=True)
    return rows


def our_curve(rows: Sequence[Row], mode: str, network: str) -> list[Point]:
    """The mean curve over draws."""
    mine = [row for row in rows if (row["mode"], row["network"]) == (mode, network)]
    seeds = sorted({row["seed"] for row in mine})
    return mean_curve([[(row["bytes"], row["top1"]) for row in mine if row["seed"] == seed] for seed in seeds])


def their_curve(rows: Sequence[Row], label: str, network: str) -> list[Point]:
    """nncodec's curve out of its rows; what its default settings reach is within reach of the "best", too."""
    labels = {label, "default"}
    return [(row["bytes"], row["top1"]) for row in rows if row["network"] == network and row["curve"] in labels]


def compare(rows: Sequence[Row], rivals: Sequence[Row], references: dict[str, float]) -> list[Row]:
    """Every goal whose two curves are there, at each of its drops."""
    table = []
    measured = {(row["mode"], row["network"]) for row in rows}
    for goal in GOALS:
        theirs = their_curve(rivals, goal.rival, goal.network)
        if (goal.mode, goal.network) not in measured or not theirs:
            continue
        mine, reference = our_curve(rows, goal.mode, goal.network), references[goal.network]
        for drop in goal.drops:
            a, b = bytes_at(mine, reference, drop), bytes_at(theirs, reference, drop)
            smallest, accuracy = min(mine)
            at_most = a is None and accuracy >= reference - drop
            if at_most:  # our smallest file is still better than that
                a = smallest
            ratio = None if a is None or b is None else a / b
            outcome = {
                "drop": drop,
                "at_most": at_most,
                "ours": a,
                "nncodec": b,
                "ratio": ratio,
                "met": ratio is not None and ratio <= goal.target,
            }
            table.append({**dataclasses.asdict(goal), **outcome})
    return table


def show(table: Sequence[Row]) -> None:
    """Prints the comparison."""
    print(
        f"{'network':20} {'mode':12} {'drop':>5} {'ours':>12} {'nncodec':>12} {'ratio':>7} {'target':>7} "
        f"{'moonshot':>8}"
    )
    for row in table:
        sizes = [f"{'-':>12}" if row[side] is None else f"{row[side]:12,.0f}" for side in ("ours", "nncodec")]
        ratio = "-" if row["ratio"] is None else f"{'<' * row['at_most']}{row['ratio']:.3f}"
        moonshot = "" if row["moonshot"] is None else f"{row['moonshot']:.2f}"
        print(
            f"{row['network']:20} {row['mode']:12} {row['drop']:5.1f} {' '.join(sizes)} {ratio:>7} "
            f"{row['target']:7.2f} {moonshot:>8} {'met' if row['met'] else 'missed'}"
        )


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--stored", action="store_true")
    parser.add_argument("--mode", action="append", choices=list(MODES))
    options = parser.parse_args()
    found = networks()
    results: dict[str, Any] = {"references": {}, "rows": [], "rivals": []}
    if RESULTS.exists():
        results.update(json.loads(RESULTS.read_text()))
    rows, rivals, references = results["rows"], results["rivals"], results["references"]
    for name in options.networks or found:
        judge = Judge(found[name], found[name].test())
        references[name] = judge.reference.top1
        rivals = [row for row in rivals if row["network"] != name]
        if options.stored:
            rivals += [row for row in nnc.stored()["rows"] if row["network"] == name]
        else:
            rivals += nnc.again(found[name], "best", judge) + nnc.again(found[name], "default", judge)
        for mode in options.mode or MODES:
            if name not in MODES[mode][1]:
                continue
            rows = [row for row in rows if (row["mode"], row["network"]) != (mode, name)]
            for seed in range(MODES[mode][2]):
                rows += measure(mode, found[name], seed, judge)
                table = compare(rows, rivals, references)
                write_results("calibrated", {"references": references, "table": table, "rows": rows, "rivals": rivals})
    show(compare(rows, rivals, references))


if __name__ == "__main__":
    main()
