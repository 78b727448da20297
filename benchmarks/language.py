"""A language model at 2 to 5 bits a weight: what calibrated compression costs, against rounding to nearest.

    TERSOR_DATA=... python -m benchmarks.language        writes benchmarks/results/language.json, row by row
    ... python -m benchmarks.language METHOD ...          some methods only: "minmax", "least squares", "calibrated"

SmolLM2-135M, WikiText-2 validation text, its first 40,000 tokens, context 512. All matrices, the embedding too, are
rounded in groups of 64 weights with a zero point; norms stay fp32. Two ways to choose a group's step: "minmax", from
its least and greatest weight (fp16), as round-to-nearest is usually meant, and "least squares", tersor's `Quantize`.
Two sizes of each: "packed", codes of plain bits beside an fp16 step and a zero point of as many bits as a code; and
"file", the whole .tsr with tersor's entropy coding. Bits a weight are of all the file's bytes and parameters.

Ours is the whole file of `tersor.calibrated`, calibrated on 16 windows of the same text that perplexity does not see.
Curves are read between their points, the logarithm of the rise of log perplexity being linear in bits a weight.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import tersor
from benchmarks import smollm
from benchmarks.machine import write_results
from tersor.calibrated import sweep
from tersor.container.writer import Entry
from tersor.quantization import Lossless, Quantize
from tersor.quantization.uniform import encode
from tersor.tensors import CompressedTensor, Uniform

GROUP = 64
SEED = 0
RATES = (5e-7, 1.4e-7, 2.2e-6, 3.5e-8)
"""Nats of loss per bit, a sample of 512 tokens being the unit: about 3, 4, 2 and 5 bits a weight."""
WINDOWS, BATCH = 16, 2
SHOWN = (2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0)
BITS = (3, 2, 4, 5)
RESULTS = Path(__file__).parent / "results" / "language.json"


def minmax(weight: Tensor, bits: int) -> Uniform:
    """Steps from the extremes of each group, zero included; nearest codes."""
    assert weight.shape[1] % GROUP == 0
    groups = weight.reshape(weight.shape[0], -1, GROUP)
    low, high = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)
    scale = ((high - low) / (2**bits - 1)).half().float().clamp(min=2**-24)
    zero = (-(2 ** (bits - 1)) - (low / scale).round()).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return encode(weight, None, bits, scale.numpy(), zero.int().numpy(), GROUP)


def least_squares(weight: Tensor, bits: int) -> Uniform:
    """Steps of least squared error."""
    return Quantize(bits=bits, symmetric=False, granularity="group", group_size=GROUP).fit(weight)


METHODS: dict[str, Callable[[Tensor, int], Uniform]] = {"minmax": minmax, "least squares": least_squares}


def compressed(model: nn.Module, fit: Callable[[Tensor, int], Uniform], bits: int) -> tersor.CompressedModel:
    """All tensors of the model, matrices quantized."""
    entries = []
    for name, value in smollm.weights(model).items():
        tensor: CompressedTensor = fit(value, bits) if value.ndim == 2 else Lossless().fit(value)
        entries.append(Entry(name, tensor))
    return tersor.CompressedModel(tuple(entries))


def file_bytes(model: tersor.CompressedModel) -> int:
    """Size of the .tsr file."""
    buffer = io.BytesIO()
    tersor.save(model, buffer, threads=1)
    return buffer.getbuffer().nbytes


def packed_bytes(model: tersor.CompressedModel) -> int:
    """Size without entropy coding or headers."""
    total = 0
    for entry in model.entries:
        tensor = entry.tensor
        assert tensor is not None
        if isinstance(tensor, Uniform):
            total += math.ceil((tensor.codes.numel() * tensor.bits + tensor.scale.numel() * (16 + tensor.bits)) / 8)
        else:
            total += 4 * tensor.dequantize().numel()
    return total


def rows_of(method: str, bits: int) -> list[dict[str, Any]]:
    """One perplexity, two sizes."""
    model = smollm.build()
    parameters = sum(value.numel() for value in smollm.weights(model).values())
    small = compressed(model, METHODS[method], bits)
    model.load_state_dict(small.state_dict(), strict=False)
    ppl = smollm.perplexity(model)
    return [
        {
            "method": f"{method}, {form}",
            "bits": bits,
            "bytes": size,
            "bits_per_weight": 8 * size / parameters,
            "ppl": ppl,
        }
        for form, size in (("packed", packed_bytes(small)), ("file", file_bytes(small)))
    ]


def calibrated_rows() -> Iterator[dict[str, Any]]:
    """Ours, at each of `RATES`."""
    model = smollm.build()
    parameters = sum(value.numel() for value in smollm.weights(model).values())
    start = time.perf_counter()
    samples = smollm.calibration(SEED, WINDOWS, BATCH)
    options = tersor.Calibrate(seed=SEED, sequential=False)
    for trial in sweep(model, samples, RATES, options=options, threads=1):
        size = file_bytes(tersor.CompressedModel(trial.entries))
        state = tersor.CompressedModel(trial.entries).state_dict()
        student = smollm.build()
        student.load_state_dict(state, strict=False)
        seconds = time.perf_counter() - start
        yield {
            "method": "calibrated",
            "rate": trial.point.rate,
            "bytes": size,
            "bits_per_weight": 8 * size / parameters,
            "ppl": smollm.perplexity(student),
            "seconds": seconds,
        }
        start = time.perf_counter()


def rise_at(rows: Sequence[dict[str, Any]], method: str, bits: float) -> float | None:
    """Relative rise of perplexity at `bits` a weight, read off a method's curve; None outside of it."""
    reference = next(row["ppl"] for row in rows if row["method"] == "fp32")
    points = sorted(
        (r["bits_per_weight"], max(math.log(r["ppl"] / reference), 1e-6)) for r in rows if r["method"] == method
    )
    for (few, worse), (many, better) in itertools.pairwise(points):
        if few <= bits <= many:
            share = (bits - few) / (many - few)
            return math.expm1(math.exp((1 - share) * math.log(worse) + share * math.log(better)))
    return None


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Prints each curve at whole and half bits."""
    print(f"{'bits a weight':28}" + "".join(f"{bits:9.1f}" for bits in SHOWN))
    for method in dict.fromkeys(row["method"] for row in rows if row["method"] != "fp32"):
        rises = [rise_at(rows, method, bits) for bits in SHOWN]
        print(f"{method:28}" + "".join(f"{'-':>9}" if rise is None else f"{rise:9.1%}" for rise in rises))


def main() -> None:
    torch.set_num_threads(1)
    if not smollm.available():
        return
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    rows = results["rows"]
    if not any(row["method"] == "fp32" for row in rows):
        model = smollm.build()
        count = sum(value.numel() for value in smollm.weights(model).values())
        rows.append(
            {"method": "fp32", "bits": 32, "bytes": 4 * count, "bits_per_weight": 32.0, "ppl": smollm.perplexity(model)}
        )
        print(json.dumps(rows[-1]), flush=True)
    for method in sys.argv[1:] or [*METHODS, "calibrated"]:
        if method == "calibrated":
            rows[:] = [row for row in rows if row["method"] != method]
            for row in calibrated_rows():
                rows.append(row)
                print(json.dumps(row), flush=True)
                write_results("language", {"tokens": smollm.TOKENS, "context": smollm.CONTEXT, "rows": rows})
            continue
        for bits in BITS:
            if not any(row["method"].startswith(method) and row["bits"] == bits for row in rows):
                rows += rows_of(method, bits)
                print(json.dumps(rows[-1]), flush=True)
                write_results("language", {"tokens": smollm.TOKENS, "context": smollm.CONTEXT, "rows": rows})
    show(rows)


if __name__ == "__main__":
    main()
