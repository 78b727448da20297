"""Memory, threads and start-up: peak memory on a 500 MB sharded checkpoint, two threads against one, import and
inspect times.

    python -m benchmarks.resources          writes benchmarks/results/resources.json
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.machine import write_results


def make_sharded(folder: Path, megabytes: int, shards: int = 4) -> int:
    """A Hugging Face folder of fp32 shards with the shapes of a small decoder. Returns the largest tensor's bytes."""
    torch.manual_seed(0)
    folder.mkdir()
    state = {"model.embed_tokens.weight": torch.randn(24_000, 1024) * 0.02}
    layer = 0
    while sum(v.numel() * 4 for v in state.values()) < megabytes * 1_000_000:
        for name, shape in (("self_attn.q_proj", (1024, 1024)), ("mlp.up_proj", (4096, 1024)), ("mlp.norm", (1024,))):
            state[f"model.layers.{layer}.{name}.weight"] = torch.randn(shape) * 0.02
        layer += 1
    names = list(state)
    where = {}
    for shard in range(shards):
        part = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        save_file({name: state[name] for name in part}, folder / file, {"format": "pt"})
        where.update(dict.fromkeys(part, file))
    total = sum(v.numel() * 4 for v in state.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": where})
    )
    (folder / "config.json").write_text('{"model_type": "made-up"}')
    return max(v.numel() * 4 for v in state.values())


def run(*arguments: object) -> tuple[float, int]:
    """Wall seconds and peak resident bytes of one command, as the operating system counted them."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, arguments)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, arguments
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def median_seconds(repeats: int, *arguments: object) -> float:
    return statistics.median(run(*arguments)[0] for _ in range(repeats))


def import_seconds() -> float:
    """Seconds that `import tersor` takes in a process that has imported torch."""
    code = "import time, torch; start = time.perf_counter(); import tersor; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own: a child's peak counts what its parent held when it was started.
        with ProcessPoolExecutor(1, get_context("spawn")) as maker:
            largest = maker.submit(make_sharded, folder / "model", 500).result()
        results["largest_tensor_bytes"] = largest
        results["allowed_peak_bytes"] = 3 * largest + 200_000_000
        results["import_torch_peak_bytes"] = run("-c", "import torch")[1]
        for threads in (1, 2):
            small = folder / f"t{threads}.tsr"
            for what, arguments in (
                ("compress", ("compress", folder / "model", "-o", small)),
                ("decompress", ("decompress", small, "-o", folder / f"back{threads}")),
            ):
                seconds, peak = run("-m", "tersor", *arguments, "--threads", threads)
                results[f"{what}_{threads}_threads"] = {"seconds": seconds, "peak_bytes": peak}
                print(f"{what} with {threads} threads: {seconds:.1f} s, peak {peak / 1e6:.0f} MB")
        assert (folder / "t1.tsr").read_bytes() == (folder / "t2.tsr").read_bytes()
        for what in ("compress", "decompress"):
            one, two = (results[f"{what}_{threads}_threads"]["seconds"] for threads in (1, 2))
            results[f"{what}_speedup"] = one / two
            print(f"{what}: two threads are {one / two:.2f}x one")
        tiny = folder / "tiny.safetensors"
        save_file({"w": torch.randn(8, 8)}, tiny)
        run("-m", "tersor", "compress", tiny, "-o", folder / "tiny.tsr")
        results["inspect_seconds"] = {
            label: median_seconds(5, "-m", "tersor", "inspect", folder / file, "--json")
            for label, file in (("small file", "tiny.tsr"), ("large file", "t1.tsr"))
        }
    results["import_seconds_beyond_torch"] = statistics.median(import_seconds() for _ in range(7))
    print(results["inspect_seconds"], results["import_seconds_beyond_torch"])
    write_results("resources", results)


if __name__ == "__main__":
    main()
