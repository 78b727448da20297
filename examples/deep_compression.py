"""The ablation of Deep Compression (Han, Mao and Dally 2016) on LeNet-300-100 and LeNet-5.

    TERSOR_DATA=... python -m examples.deep_compression [--short] [NETWORK ...]

writes examples/results/deep_compression.json: test errors and bytes after pruning, with clusters, with Huffman's code
and with tersor's coders. Bytes are counted twice: of whole `.tsr` files, and as the paper counts (`paper_bytes`: values
of 32 bits or codes of the codebook's width, and gaps between them of 5 bits, 8 in convolutions; no header). Densities
and bits are the paper's (tables 2 and 3), with one threshold for all layers. Nothing was tuned; the validation images
decide whether trained centroids are kept, the test images nothing.

Budget: about 35 minutes of one core, 3 seeds. An interrupted run goes on with the next seed. `--short` runs on
scikit-learn's digits in seconds and writes nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import tersor
from benchmarks.journal import Journal
from benchmarks.machine import write_results
from benchmarks.mnist import LeNet5, LeNet300, digits, mnist
from benchmarks.training import Plan, Split, accuracy, fit, seeded, summary
from tersor.columns import numbers_table
from tersor.recipes import deep_compression, paper_recipe
from tersor.shrinking.holding import finalized


@dataclass(frozen=True)
class Study:
    """A network, how it is trained, pruned in `steps` to `density`, and clustered."""

    name: str
    build: Callable[[], nn.Module]
    dense: Plan
    round: Plan
    centroids: Plan
    density: float = 0.08
    linear_bits: int = 6
    conv_bits: int = 8
    steps: int = 5
    seeds: tuple[int, ...] = (0, 1, 2)


STUDIES = (
    Study("LeNet-300-100", LeNet300, Plan(12, 2e-3), Plan(8, 2e-3), Plan(4, 5e-4)),
    Study("LeNet-5", LeNet5, Plan(5, 2e-3), Plan(3, 2e-3), Plan(2, 5e-4), linear_bits=5),
)


def paper_bytes(model: nn.Module, study: Study) -> dict[str, float]:
    """Bytes of a network as the paper counts them.

    "floats": kept weights of 32 bits and gaps; "codes": codes of fixed width instead, and the codebooks; "huffman":
    codes and gaps by Huffman's code of each layer, tables not counted. Vectors are floats everywhere.
    """
    bits = dict.fromkeys(("floats", "codes", "huffman"), 0.0)
    for weight in finalized(model).parameters():
        if weight.dim() < 2:
            for name in bits:
                bits[name] += 32 * weight.numel()
            continue
        conv = weight.dim() > 2
        width = study.conv_bits if conv else study.linear_bits
        gaps, codes, book = _sparse(weight.detach(), 8 if conv else 5)
        bits["floats"] += len(gaps) * (32 + (8 if conv else 5))
        bits["codes"] += len(gaps) * (width + (8 if conv else 5)) + 32 * book
        bits["huffman"] += huffman_bits(gaps) + huffman_bits(codes) + 32 * book
    return {name: total / 8 for name, total in bits.items()}


def _sparse(weight: Tensor, bits: int) -> tuple[Tensor, Tensor, int]:
    """(zeros before each entry, below 2^bits; its code; distinct values). Longer gaps take entries that are zero."""
    flat = weight.reshape(-1)
    places = flat.nonzero().reshape(-1)
    gaps = places.diff(prepend=torch.tensor([-1])) - 1
    fillers = gaps >> bits
    values, codes = flat[places].unique(return_inverse=True)
    longest = (1 << bits) - 1
    # A filler stands for 2^bits - 1 zeros and itself, which is one more.
    entries = torch.cat([gaps & longest, torch.full((int(fillers.sum()),), longest)])
    filled = torch.cat([codes, torch.full((int(fillers.sum()),), len(values))])
    return entries, filled, len(values)


def huffman_bits(symbols: Tensor) -> int:
    """Length of Huffman's code for these symbols: the sum of all inner nodes of its tree."""
    heap = symbols.unique(return_counts=True)[1].tolist()
    heapq.heapify(heap)
    total = len(symbols) if len(heap) == 1 else 0
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        total += joined
        heapq.heappush(heap, joined)
    return total


def compressed(study: Study, seed: int, data: Split, journal: Journal) -> list[dict[str, Any]]:
    """One network of one seed: its stages, with errors in percent and bytes."""
    dense = journal.network(
        f"{study.name} {seed} dense", seeded(study.build, seed), lambda m: fit(m, data.train, study.dense, seed)
    )
    rounds = iter(range(1, 1000))
    watched: list[dict[str, Any]] = []

    def train(model: nn.Module) -> None:
        fit(model, data.train, study.round, 1000 * next(rounds) + seed)

    def watch(name: str, model: nn.Module) -> None:
        watched.append({"error": 100 - accuracy(model, data.test), "paper": paper_bytes(model, study)})

    found = deep_compression(
        dense,
        train,
        lambda model: accuracy(model, data.validation),
        recipe=paper_recipe(dense, study.density, linear_bits=study.linear_bits, conv_bits=study.conv_bits),
        schedule=tersor.Iterative(steps=study.steps),
        train_centroids=lambda model: fit(model, data.train, study.centroids, seed),
        watch=watch,
        threads=1,
    )
    return [
        {"stage": stage.name, "validation": 100 - float(stage.metric or 0), "sizes": stage.sizes, **seen}
        for stage, seen in zip(found.stages, watched, strict=False)
    ]


def measure(study: Study, data: Split, journal: Journal) -> dict[str, Any]:
    """The stages of a network over its seeds."""
    runs = [
        journal.once(f"{study.name} {seed} stages", lambda seed=seed: compressed(study, seed, data, journal))
        for seed in study.seeds
    ]
    rows = []
    for number, first in enumerate(runs[0]):
        same = [run[number] for run in runs]
        row: dict[str, Any] = {"stage": first["stage"]}
        for key in ("error", "validation"):
            row[key] = summary([stage[key] for stage in same])
        for key in ("sizes", "paper"):
            row[key] = {name: summary([float(stage[key][name]) for stage in same]) for name in first[key]}
        rows.append(row)
    original = sum(4 * p.numel() for p in study.build().parameters())
    return {
        "network": study.name,
        "study": {key: value for key, value in dataclasses.asdict(study).items() if key != "build"},
        "original_bytes": original,
        "rows": rows,
        "ablation": ablation(rows, original),
    }


def ablation(rows: Sequence[dict[str, Any]], original: int) -> list[dict[str, Any]]:
    """Mean bytes and errors of: pruning alone, with clusters, with Huffman's code, with tersor's coders.

    paper: as the paper counts. file: of the `.tsr` file.
    """
    pruned = next(row for row in reversed(rows) if row["stage"].startswith("pruned"))
    learned = next(row for row in rows if row["stage"] == "centroids trained")
    picked = (
        ("pruned", pruned, "floats", "fixed"),
        ("+ clusters", learned, "codes", "fixed"),
        ("+ Huffman", learned, "huffman", "huffman"),
        ("+ tersor's coders", learned, None, "tersor"),
    )
    return [{"arm": "dense", "error": rows[0]["error"]["mean"], "paper": original, "file": original}] + [
        {
            "arm": arm,
            "error": row["error"]["mean"],
            "paper": None if counted is None else row["paper"][counted]["mean"],
            "file": row["sizes"][coder]["mean"],
        }
        for arm, row, counted, coder in picked
    ]


def show(result: dict[str, Any]) -> None:
    """The tables."""
    print(f"\n{result['network']}, {len(result['study']['seeds'])} seeds; test error in percent")
    cells = [
        [
            row["stage"],
            f"{row['error']['mean']:.2f} ± {row['error']['std']:.2f}",
            *(f"{row['sizes'][name]['mean']:,.0f}" for name in row["sizes"]),
        ]
        for row in result["rows"]
    ]
    print(numbers_table(["stage", "error", *result["rows"][0]["sizes"]], cells))
    cells = [
        [
            row["arm"],
            f"{row['error']:.2f}",
            "" if row["paper"] is None else f"{row['paper']:,.0f}",
            f"{row['file']:,.0f}",
            f"{result['original_bytes'] / row['file']:.1f}x",
        ]
        for row in result["ablation"]
    ]
    print(numbers_table(["", "error", "as the paper counts", "file", "smaller"], cells))


def shortened(study: Study) -> Study:
    """A study of seconds."""
    quick = Plan(1, 2e-3, 64)
    return dataclasses.replace(
        study, dense=Plan(4, 2e-3, 64), round=quick, centroids=quick, steps=2, density=0.2, conv_bits=5, seeds=(0,)
    )


def main(arguments: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Runs the studies; none where MNIST is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    parser.add_argument("networks", nargs="*")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the networks are too small for more
    data = digits() if options.short else mnist()
    results: list[dict[str, Any]] = []
    if data is None:
        return results
    for study in STUDIES:
        if options.networks and study.name not in options.networks:
            continue
        study = shortened(study) if options.short else study
        plan = {key: value for key, value in dataclasses.asdict(study).items() if key != "build"}
        journal = Journal("deep_compression", [plan, time.time() if options.short else ""])
        results.append(measure(study, data, journal))
        show(results[-1])
    if not options.short:
        write_results("deep_compression", {"networks": results}, "examples")
    return results


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
