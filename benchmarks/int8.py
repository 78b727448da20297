"""Networks in 8-bit integers after training, without any: top-1 and latency against the float network.

    TERSOR_DATA=... python -m benchmarks.int8 [--short] [ROW ...]

writes benchmarks/results/int8.json. EfficientNet-Lite0 on imagenet500 (`networks.py`: shuffled): grids are found from
the first 200 images, which also serve every choice; the other 300 are reported on, and all 500 beside them. Each row is
a way to find the grids of activations; latency is that of one image, and of 20, on one thread, networks in turn. Rows
that are done are kept (`journal.py`). `--short` trains a tiny network on scikit-learn's digits and writes nothing.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import tersor
from benchmarks.journal import Journal
from benchmarks.machine import write_results
from benchmarks.mnist import digits
from benchmarks.networks import LITE_BATCH, networks, quality
from benchmarks.training import Plan, fit, seeded
from tersor.columns import numbers_table
from tersor.simulation.observers import METHODS

GOAL = 1.0
"""Points of top-1 that the best choice may lose on the images that are reported on."""
TURNS = 9

Images = tuple[Tensor, Tensor]
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """build: the float network. choice, report: labelled images. calibration: batches of the images of `choice`."""

    name: str
    build: Callable[[], nn.Module]
    choice: Images
    report: Images
    calibration: Sequence[Tensor]
    journal: Journal

    def outputs(self, model: nn.Module) -> Tensor:
        """Logits of all images, those of `choice` first."""
        images = torch.cat([self.choice[0], self.report[0]])
        with torch.no_grad():
            return torch.cat([model(batch) for batch in images.split(LITE_BATCH)])

    def row(self, name: str) -> Row:
        """What a way of finding grids gives."""
        begin = time.perf_counter()
        found = tersor.quantize_int8(self.build(), self.calibration, **ROWS[name])
        seconds = time.perf_counter() - begin
        file = io.BytesIO()
        tersor.save(found.compressed(), file)
        scores = self.scores(self.outputs(found.model))
        return {**scores, "bytes": file.tell(), "seconds": seconds, "layers": len(found.plan.layers)}

    def scores(self, outputs: Tensor) -> Row:
        """Top-1 on each part and on all, and the divergence from the float network where it is reported."""
        reference = self.reference
        count = len(self.choice[1])
        labels = torch.cat([self.choice[1], self.report[1]])
        parts = {"choice": slice(count), "report": slice(count, None), "all": slice(None)}
        top1 = {name: quality(outputs[p], labels[p], reference[p]).top1 for name, p in parts.items()}
        return {"top1": top1, "kl": quality(outputs[count:], self.report[1], reference[count:]).kl}

    @property
    def reference(self) -> Tensor:
        """Logits of the float network, computed once."""
        return torch.tensor(self.journal.once("fp32", lambda: self.outputs(self.build()).tolist()))

    def latency(self) -> Row:
        """Milliseconds of one image and of a batch, fp32 and int8: medians of turns."""
        nets = {"fp32": self.build(), "int8": tersor.quantize_int8(self.build(), self.calibration[:1]).model}
        result: Row = {}
        for batch in (1, LITE_BATCH):
            images = self.report[0][:batch]
            times: dict[str, list[float]] = {name: [] for name in nets}
            with torch.inference_mode():
                for turn in range(TURNS + 1):
                    for name, net in nets.items():
                        begin = time.perf_counter()
                        net(images)
                        if turn:
                            times[name].append(1e3 * (time.perf_counter() - begin))
            result[str(batch)] = {name: statistics.median(own) for name, own in times.items()}
        return result


ROWS: dict[str, dict[str, Any]] = {
    **{method: {"activations": tersor.Observe(method=method)} for method in METHODS},
    "mse, biases left": {"correct": False},
    "mse, error feedback": {"feedback": True},
    "mse, 7 bits": {"activations": tersor.Observe(bits=7)},
    "dynamic": {"static": False},
}
"""Arguments of `quantize_int8`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--short", action="store_true")
    chosen = parser.parse_args([] if arguments is None else arguments)
    torch.set_num_threads(1)
    bench = _short() if chosen.short else _lite()
    if bench is None:
        print("EfficientNet-Lite0 or imagenet500 is not here; see benchmarks/README.md")
        return
    names = chosen.rows or list(ROWS)
    reference = bench.scores(bench.reference)
    found = {name: bench.journal.once(name, lambda name=name: bench.row(name)) for name in names}
    latency = bench.journal.once("latency", bench.latency)
    head = ["grids", "top-1 report", "choice", "all", "KL report", "bytes"]
    rows = [_line(name, row) for name, row in {"fp32": reference, **found}.items()]
    print(numbers_table(head, rows))
    for batch, own in latency.items():
        print(f"{batch} images: fp32 {own['fp32']:.1f} ms, int8 {own['int8']:.1f} ms")
    best = max(found, key=lambda name: (found[name]["top1"]["choice"], -found[name]["kl"]))
    drop = reference["top1"]["report"] - found[best]["top1"]["report"]
    print(f"chosen: {best}; it loses {drop:.2f} points (goal {GOAL})")
    if not chosen.short:
        results = {"network": bench.name, "fp32": reference, "rows": found, "latency_ms": latency}
        write_results("int8", {**results, "chosen": best, "drop": drop, "goal": GOAL})


def _line(name: str, row: Row) -> list[str]:
    top1 = [f"{row['top1'][part]:.2f}" for part in ("report", "choice", "all")]
    return [name, *top1, f"{row['kl']:.4f}", f"{row['bytes']:,}" if "bytes" in row else ""]


def _lite() -> Bench | None:
    network = networks().get("EfficientNet-Lite0")
    if network is None:
        return None
    choice = network.selection()
    journal = Journal("int8", {name: str(options) for name, options in ROWS.items()})
    return Bench(network.name, network.build, choice, network.test(), choice[0].split(LITE_BATCH), journal)


def _short() -> Bench:
    data = digits()

    def build() -> nn.Module:
        layers = [nn.Conv2d(1, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU()]
        return seeded(lambda: nn.Sequential(*layers, nn.Flatten(), nn.Linear(576, 10)), 0)

    model = fit(build(), data.train, Plan(epochs=2, rate=3e-3), 0).eval()
    calibration = data.validation[0].split(LITE_BATCH)
    return Bench("digits", lambda: model, data.validation, data.test, calibration, _Forgetful())


class _Forgetful(Journal):
    """Keeps nothing on the disk."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def once(self, key: str, work: Callable[[], Any]) -> Any:
        """See the base class."""
        if key not in self._known:
            self._known[key] = work()
        return self._known[key]


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
