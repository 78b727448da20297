"""Writes the golden files of the current format version: `python -m tests.golden.make` from the root.

Run it only when the format is changed on purpose, and say so in CHANGELOG.md.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from tersor import Binarize, Cast, FixedPoint, Lossless, Palettize, Prune, Quantize, Recipe, Rule, Ternarize, compress
from tersor.calibration import Factor, LayerStatistics, Layout, dependent_uniform, snap
from tersor.container.writer import Entry
from tersor.model import CompressedModel
from tersor.storage import save
from tersor.tensors import Uniform

FOLDER = Path(__file__).parent


def model() -> CompressedModel:
    """A tensor of every kind and of many dtypes, a tie, and attachments."""
    g = torch.Generator().manual_seed(20)
    state = {f"{kind}.weight": torch.randn(5, 12, generator=g) for kind in ("uniform", "affine", "group", "fixed")}
    state |= {f"{kind}.weight": torch.randn(4, 2, 3, 2, generator=g) for kind in ("codebook", "binary", "ternary")}
    state["sparse.weight"] = torch.randn(8, 20, generator=g)
    state["half.weight"] = torch.randn(5, 9, generator=g)
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2):
        state[f"exact.{str(dtype).removeprefix('torch.')}"] = torch.randn(5, generator=g).to(dtype)
    state["special"] = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-45])
    state["steps"] = torch.tensor(-7)
    state["flags"] = torch.tensor([True, False, True])
    state["empty"] = torch.zeros(0, 3)
    state |= in_disguise(g)
    state["tied.weight"] = state["uniform.weight"]
    rules = {
        "uniform.weight": Quantize(bits=8),
        "affine.weight": Quantize(bits=5, symmetric=False),
        "group.weight": Quantize(bits=3, granularity="group", group_size=7),
        "fixed.weight": FixedPoint(bits=6),
        "codebook.weight": Palettize(bits=3, runs=2),
        "binary.weight": Binarize(),
        "ternary.weight": Ternarize(granularity="tensor"),
        "half.weight": Cast("float16"),
    }
    recipe = Recipe(
        [Rule("*", Lossless())]
        + [Rule(name, config) for name, config in rules.items()]
        + [Rule("sparse.weight", Palettize(bits=4), Prune(density=0.2))]
    )
    compressed = compress(state, recipe, threads=1)
    entries = (*compressed.entries, Entry("trellis.weight", on_trellis(torch.randn(6, 16, generator=g))))
    return CompressedModel(entries, "torch", {"note": b"golden", "repeated": b"abc" * 6000}, compressed.original_bytes)


def in_disguise(g: torch.Generator) -> dict[str, torch.Tensor]:
    """Plain numbers that are recognised: as a patched grid, one by its ends, a codebook of integers and so on."""
    rows = torch.round(torch.randn(20, 40, generator=g) * 40) * torch.rand(20, 1, generator=g)
    rows[3, 4] = 0.123
    groups = torch.randn(16, 64, generator=g).bfloat16().float().reshape(32, 32)
    bottom, step = groups.amin(1, keepdim=True), (groups.amax(1, keepdim=True) - groups.amin(1, keepdim=True)) / 15
    q = ((groups - bottom) / step + 0.5).floor().clamp(0, 15)
    signs = torch.randn(30, 40, generator=g) * (torch.rand(30, 40, generator=g) < 0.3)
    return {
        "disguise.rows": rows,
        "disguise.groups": (q * step.half().float() + bottom.half().float()).reshape(16, 64),
        "disguise.signs": signs,
        "disguise.copy": signs.clone(),
        "disguise.integers": torch.tensor([-(10**9), 3, 10**12])[torch.randint(3, (200,), generator=g)],
    }


def on_trellis(weight: torch.Tensor) -> Uniform:
    """Codes that are a path of 8 states, rows with steps of their own."""
    rows, columns = weight.shape
    layout, one = Layout(diagonal=True), torch.ones(1, columns)
    statistics = LayerStatistics(weight.shape, layout, 1, torch.ones(1).long(), one, 0 * one.double(), None)
    steps = snap(torch.linspace(0.1, 0.4, rows, dtype=torch.float64)[None])
    return dependent_uniform(weight, statistics, Factor(None, one.double()), steps)


def main() -> None:
    """Writes v1.tsr, v1-fast.tsr and what they decode to."""
    compressed = model()
    save(compressed, FOLDER / "v1.tsr", force=True)
    save(compressed, FOLDER / "v1-fast.tsr", profile="fast", force=True)
    save_file({name: value.clone() for name, value in compressed.state_dict().items()}, FOLDER / "v1.safetensors")


if __name__ == "__main__":
    main()
