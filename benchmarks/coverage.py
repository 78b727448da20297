"""Which architectures structured pruning can follow: tersor and Torch-Pruning 1.6.1 on the same networks, in one run.

    python -m benchmarks.coverage [--short] [NAME ...]

writes benchmarks/results/coverage.json. Every group of channels loses 30 % and 50 % of its units by L1. It counts as
done if at least a tenth of the parameters is gone, and the network runs forward and takes a training step; ours must
also equal the masked network on the example (the self-check of surgery), which is not asked of Torch-Pruning. Networks
are of their published sizes, weights random. It also measures how the time grows with depth (ResNet-20, -56, -110), and
that of ResNet-50. Each attempt runs in a process of its own, in which torch has loaded what tracing takes before the
clock starts. `--short` takes small networks and writes nothing.

Torch-Pruning: pip install --no-deps torch-pruning==1.6.1 (it needs no torchvision to prune).
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.journal import Journal
from benchmarks.machine import write_results
from benchmarks.sources import ResNetCifar
from tersor.structure.groups import find_groups
from tersor.structure.surgery import shrink_where_possible
from tersor.structure.trace import trace
from tests.zoo.catalogue import CATALOGUE
from tests.zoo.entry import settle
from tests.zoo.selection import by_l1

ARCHITECTURES = {
    "VGG-16": "vgg16",
    "ResNet-18": "resnet18",
    "ResNet-50": "resnet50",
    "DenseNet-121": "densenet121",
    "MobileNetV2": "mobilenet_v2",
    "EfficientNet-B0": "efficientnet_b0",
    "ShuffleNetV2": "shufflenet_v2",
    "RegNetX-400MF": "regnet_x",
    "ConvNeXt-T": "convnext_t",
    "GoogLeNet": "googlenet",
    "SqueezeNet": "squeezenet",
    "U-Net": "unet",
    "ViT-B/16": "vit_b16",
    "Swin-T": "swin_t",
    "DeiT-S": "deit_s",
    "MLP-Mixer-B/16": "mlp_mixer",
    "BERT-base": "bert_sdpa",
    "GPT-2": "gpt2_sdpa",
    "Llama": "llama_sdpa",
    "T5-small": "t5",
    "LSTM": "lstm",
}
SHARES = (0.3, 0.5)
LEAST = 0.1
"""Share of the parameters that must be gone."""
DEPTHS = (3, 9, 18)
"""Blocks a stage of ResNet-20, -56 and -110."""
PATIENCE = 900
"""Seconds until an attempt is given up."""

Row = dict[str, Any]


def tersor_shrinks(name: str, share: float, full: bool) -> Row:
    """Our attempt."""
    model, (args, kwargs) = CATALOGUE[name].make(full=full)
    clock = _Clock()
    traced = trace(model, args, kwargs)
    clock.lap("trace")
    groups = find_groups(traced)
    clock.lap("groups")
    selection = by_l1(model, groups, share)
    clock.lap("selection")
    found = shrink_where_possible(model, selection, groups, traced)
    clock.lap("surgery")
    row = _finished(model, found.model, args, kwargs)
    skipped = {group: str(error)[:300] for group, error in found.skipped.items()}
    return {**row, **clock.row(), "groups": len(groups.groups), "skipped": skipped}


def torch_pruning_shrinks(name: str, share: float, full: bool) -> Row:
    """The rival's attempt."""
    from benchmarks.torchpruning import prune

    model, (args, kwargs) = CATALOGUE[name].make(full=full)
    clock = _Clock()
    small = prune(model, args, kwargs, share)
    clock.lap("surgery")
    return {**_finished(model, small, args, kwargs), **clock.row()}


TOOLS: dict[str, Callable[[str, float, bool], Row]] = {
    "tersor": tersor_shrinks,
    "torch-pruning": torch_pruning_shrinks,
}


class _Clock:
    """Seconds by the clock, and of this process's work alone, since the last lap."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._work: dict[str, float] = {}
        self._start()

    def _start(self) -> None:
        self._now = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> None:
        self._seconds[name] = time.perf_counter() - self._now[0]
        self._work[name] = time.process_time() - self._now[1]
        self._start()

    def row(self) -> Row:
        return {"seconds": self._seconds, "cpu_seconds": self._work}


def _finished(model: nn.Module, small: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Row:
    """Whether a pruned network takes a training step, and how much of the original is gone."""
    before, after = (sum(p.numel() for p in network.parameters()) for network in (model, small))
    small.train()
    optimizer = torch.optim.SGD(small.parameters(), 1e-3)
    output = small(*args, **kwargs)
    assert isinstance(output, Tensor)
    output.square().mean().backward()
    optimizer.step()
    finite = all(bool(torch.isfinite(parameter).all()) for parameter in small.parameters())
    removed = 1 - after / before
    return {"removed": removed, "done": finite and removed >= LEAST}


def attempt(tool: str, name: str, share: float, full: bool) -> Row:
    """One attempt in a process of its own; what it raised is part of the row."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=_attempt, args=(queue, tool, name, share, full))
    process.start()
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
        return {"done": False, "error": f"no result after {PATIENCE} s"}
    return {"done": False, "error": f"ended with {process.exitcode}"} if queue.empty() else queue.get()


def _attempt(queue: Any, tool: str, name: str, share: float, full: bool) -> None:
    try:
        row = TOOLS[tool](name, share, full)
    except Exception as error:  # noqa: BLE001 - a failed attempt is a result
        row = {"done": False, "error": f"{type(error).__name__}: {error}"[:500]}
    queue.put(row)


def depths(blocks: Sequence[int]) -> list[Row]:
    """Seconds of trace, groups and surgery for ResNets of 6n+2 layers: linear if they grow as the layers do."""
    rows = []
    for n in blocks:
        torch.manual_seed(0)
        model, image = ResNetCifar(n), torch.randn(2, 3, 32, 32)
        settle(model, (image,), {})
        clock = _Clock()
        traced = trace(model, (image,), {})
        clock.lap("trace")
        groups = find_groups(traced)
        clock.lap("groups")
        found = shrink_where_possible(model, by_l1(model, groups, 0.3), groups, traced)
        clock.lap("surgery")
        rows.append({"layers": 6 * n + 2, **clock.row(), "skipped": list(found.skipped)})
    return rows


def table(rows: Sequence[Row]) -> Row:
    """How many architectures each tool does at every share, and which only one of them does."""
    done = {
        tool: {row["architecture"] for row in rows if all(row[tool][str(share)]["done"] for share in SHARES)}
        for tool in TOOLS
        if all(tool in row for row in rows)
    }
    return {
        "of": len(rows),
        "done": {tool: len(names) for tool, names in done.items()},
        "only_theirs": sorted(done.get("torch-pruning", set()) - done["tersor"]),
    }


def show(row: Row) -> None:
    cells = []
    for tool in TOOLS:
        for share in SHARES if tool in row else ():
            found = row[tool][str(share)]
            text = f"{found['removed']:.0%} gone" if "removed" in found else found["error"][:60]
            cells.append(f"{tool} {share:.0%}: {'done' if found['done'] else 'FAILED'}, {text}")
    print(f"{row['architecture']:16} " + " | ".join(cells), flush=True)


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    tools = [tool for tool in TOOLS if tool == "tersor" or importlib.util.find_spec("torch_pruning") is not None]
    if len(tools) < len(TOOLS):
        print("skipped: Torch-Pruning is not installed")
    trace(nn.Linear(1, 1), (torch.zeros(1, 1),), {})
    journal = Journal("coverage", [time.time() if options.short else "full", torch.__version__])
    rows = []
    for architecture in options.names or (list(ARCHITECTURES)[:3] if options.short else ARCHITECTURES):
        name = ARCHITECTURES[architecture]
        row: Row = {"architecture": architecture, "network": name}
        if CATALOGUE[name].package is not None and importlib.util.find_spec(CATALOGUE[name].package) is None:
            print(f"skipped: {architecture} needs {CATALOGUE[name].package}")
            continue
        for tool in tools:
            row[tool] = {
                str(share): journal.once(
                    f"{name} {tool} {share}", functools.partial(attempt, tool, name, share, not options.short)
                )
                for share in SHARES
            }
        rows.append(row)
        show(row)
    growth = depths(DEPTHS[:1] if options.short else DEPTHS)
    print(json.dumps({"table": table(rows), "depths": growth}, indent=1))
    if not options.short:
        write_results("coverage", {"table": table(rows), "rows": rows, "depths": growth})


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
