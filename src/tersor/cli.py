"""The command line: `tersor compress | decompress | inspect | verify | diff | demo`.

Exit codes: 0 done; 1 another error; 2 wrong options, recipe or pattern; 3 an input that cannot be read or is not
supported; 4 a damaged .tsr file; 5 an output that exists or cannot be written; 6 `diff` found differences;
130 interrupted.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tersor._version import __version__
from tersor.errors import TersorError, TersorWarning, UsageError

_SUFFIXES = {
    "state_dict": ".safetensors",
    "safetensors": ".safetensors",
    "torch": ".pt",
    "npz": ".npz",
    "onnx": ".onnx",
    "gguf": ".gguf",
    "huggingface": "",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Errors go to stderr as one line."""
    options = _parser().parse_args(arguments)
    _return_freed_memory()
    warnings.showwarning = _show_warning
    warnings.simplefilter("ignore")  # of libraries: nothing that a user of the command line can act on
    warnings.simplefilter("always", TersorWarning)
    try:
        return int(options.run(options))
    except TersorError as error:
        print(f"tersor: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("tersor: interrupted; nothing was written", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output is gone; what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tersor",
        description="Makes trained neural networks small: any checkpoint to a small, verified .tsr file and back.",
        epilog="Exit codes: " + (__doc__ or "").split("Exit codes: ")[1].replace("\n", " ").strip(),
    )
    parser.add_argument("--version", action="version", version=f"tersor {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_compress(commands)
    _add_decompress(commands)

    command = commands.add_parser("inspect", help="what a .tsr file holds, tensor by tensor")
    command.add_argument("file", help=".tsr file, or - for standard input")
    command.add_argument("--full", action="store_true", help="decode and verify everything, also in large files")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_inspect)

    command = commands.add_parser("verify", help="check every byte of .tsr files and decode every tensor")
    command.add_argument("files", nargs="+", metavar="file", help=".tsr files, or - for standard input")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_verify)

    command = commands.add_parser("diff", help="compare two checkpoints, tensor by tensor; either may be a .tsr file")
    command.add_argument("a", help="the reference")
    command.add_argument("b", help="what is compared with it")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_diff)

    command = commands.add_parser("demo", help="train, prune, cluster and code a small network on real digits")
    command.add_argument("-o", "--output", default="digits.tsr", help="file to write (default: %(default)s)")
    command.add_argument("--force", action="store_true", help="replace an output that exists")
    command.add_argument("--seed", type=int, default=0, help="of the training (default: %(default)s)")
    command.set_defaults(run=_demo)
    return parser


def _add_compress(commands: Any) -> None:
    command = commands.add_parser(
        "compress",
        help="a checkpoint into a .tsr file",
        description="Compresses a checkpoint: .safetensors, .pt/.pth/.th/.bin/.ckpt, .npz, .onnx, .gguf or a Hugging "
        "Face folder. Without options, weights (two or more dimensions) get 8 bits (10 in rows of fewer than 32) with "
        "one error-minimising step a channel, and everything else stays exact.",
    )
    command.add_argument("input", help="checkpoint file or folder, or - for standard input")
    command.add_argument("-o", "--output", help=".tsr file, or - for standard output (default: input's name + .tsr)")
    command.add_argument(
        "--lossless", action="store_true", help="exact to the bit; sees what is compressed in disguise"
    )
    command.add_argument("--bits", type=int, help="bits a weight: 1-16 uniform or fixed (default 8), 1-8 palettize (4)")
    command.add_argument(
        "--method",
        choices=["uniform", "palettize", "fixed", "binary", "ternary", "float16", "bfloat16", "float8"],
        help="representation of the weights (default: uniform)",
    )
    command.add_argument("--group-size", type=int, metavar="N", help="uniform: one step for N weights of a row")
    command.add_argument("--affine", action="store_true", help="uniform: with a zero point")
    command.add_argument(
        "--density", type=float, metavar="D", help="keep this part of each weight (0-1), largest first"
    )
    command.add_argument(
        "--include", action="append", default=[], metavar="PATTERN", help="only these tensors (repeat)"
    )
    command.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="not these tensors (repeat)")
    command.add_argument("--recipe", metavar="FILE", help="YAML or JSON recipe instead of the options above")
    command.add_argument(
        "--coder", choices=["auto", "raw", "rans", "register", "buckets", "adaptive", "huffman"], default="auto"
    )
    command.add_argument("--profile", choices=["small", "fast"], default="small", help="smallest file or fast decoding")
    command.add_argument("--threads", type=int, metavar="N", help="default: one a CPU; the file does not depend on it")
    command.add_argument("--force", action="store_true", help="replace an output that exists")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_compress)


def _add_decompress(commands: Any) -> None:
    command = commands.add_parser(
        "decompress",
        help="a .tsr file back into a checkpoint",
        description="Gives back a checkpoint of the kind that went in, or of the kind that the output's name asks for: "
        ".safetensors, .pt (.pth, .th, .bin, .ckpt), .npz, .onnx, .gguf, or a folder.",
    )
    command.add_argument("file", help=".tsr file, or - for standard input")
    command.add_argument("-o", "--output", help="checkpoint to write, or - for standard output (default: beside FILE)")
    command.add_argument(
        "--format", choices=sorted(set(_SUFFIXES) - {"state_dict"}), help="instead of the output's name"
    )
    command.add_argument("--threads", type=int, metavar="N", help="default: one a CPU")
    command.add_argument("--max-bytes", type=int, metavar="N", help="refuse files whose tensors take more")
    command.add_argument("--force", action="store_true", help="replace an output that exists")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_decompress)


def _compress(options: argparse.Namespace) -> int:
    from tersor.coding import CodingConfig
    from tersor.compress import compress_file, set_torch_threads
    from tersor.report.sizes import sizes_of
    from tersor.report.tables import ProgressLine

    recipe = _recipe(options)
    set_torch_threads(options.threads)
    start = time.perf_counter()
    with _input_path(options.input) as path:
        output = _output_name(options, path, ".tsr")
        progress = ProgressLine(None if options.json else sys.stderr)
        with _output_file(output, options.force) as file:
            summary, before = compress_file(
                path,
                file,
                recipe,
                coding=CodingConfig(options.coder, options.profile),
                threads=options.threads,
                progress=progress.start,
            )
        progress.close()
    sizes = sizes_of(summary.index, before, summary.file_bytes, time.perf_counter() - start)
    report = {
        "input": options.input,
        "output": output,
        **sizes.to_dict(),
        "content_id": summary.content_id.hex(),
    }
    _print(options, report, f"{options.input} -> {output}\n{sizes}", to_stderr=output == "-")
    return 0


def _recipe(options: argparse.Namespace) -> Any:
    """The recipe that the options describe. UsageError for options that contradict each other."""
    from tersor.pruning import Prune
    from tersor.quantization import Lossless
    from tersor.recipe import Recipe, Rule

    given = {
        f"--{name.replace('_', '-')}": bool(value) if isinstance(value, (bool, list)) else value is not None
        for name, value in vars(options).items()
        if name in ("lossless", "bits", "method", "group_size", "affine", "density", "include", "exclude", "recipe")
    }
    for alone in ("--recipe", "--lossless"):
        others = [name for name, is_given in given.items() if is_given and name != alone]
        if given[alone] and others:
            raise UsageError(f"{alone} excludes {', '.join(others)}; give one or the other")
    if options.recipe:
        return Recipe.load(options.recipe)
    if options.lossless:
        return Recipe.lossless()
    prune = None if options.density is None else Prune(density=options.density)
    included = tuple(options.include) or "*"
    rules = [Rule(included, _representation(options), prune)]
    if not any(given[name] for name in ("--bits", "--method", "--group-size", "--affine")):
        rules = [replace(rule, match=included, prune=prune) for rule in Recipe.default().rules]
    if options.exclude:
        rules.append(Rule(tuple(options.exclude), Lossless(), None if prune is None else Prune(density=1.0)))
    return Recipe(rules)


def _representation(options: argparse.Namespace) -> Any:
    from tersor.quantization import Binarize, Cast, FixedPoint, Palettize, Quantize, Ternarize

    method = options.method or "uniform"
    floats = {"float16": "float16", "bfloat16": "bfloat16", "float8": "float8_e4m3fn"}
    if options.bits is not None and method not in ("uniform", "palettize", "fixed"):
        raise UsageError(f"--bits does not apply to --method {method}")
    if method != "uniform" and (options.group_size is not None or options.affine):
        raise UsageError(f"--group-size and --affine do not apply to --method {method}")
    if method in floats:
        return Cast(floats[method])
    if method == "binary":
        return Binarize()
    if method == "ternary":
        return Ternarize()
    if method == "palettize":
        return Palettize(bits=4 if options.bits is None else options.bits)
    bits = 8 if options.bits is None else options.bits
    if method == "fixed":
        return FixedPoint(bits=bits)
    granularity = "channel" if options.group_size is None else "group"
    return Quantize(bits=bits, symmetric=not options.affine, granularity=granularity, group_size=options.group_size)


def _decompress(options: argparse.Namespace) -> int:
    from tersor.container.reader import Reader
    from tersor.restore import decompress_file

    start = time.perf_counter()
    with _input_path(options.file) as path:
        with Reader(path, max_bytes=options.max_bytes) as reader:
            source = reader.index.source
            before = reader.file_bytes
        output = _output_name(options, path, _SUFFIXES[options.format or source])
        format = options.format or (None if options.output not in (None, "-") else source)
        format = "safetensors" if format == "state_dict" else format
        if output == "-":
            _decompress_to_stdout(path, format, options)
        else:
            decompress_file(
                path,
                output,
                format,
                force=options.force,
                threads=options.threads,
                max_bytes=options.max_bytes,
            )
    seconds = time.perf_counter() - start
    report = {"input": options.file, "output": output, "format": format, "bytes": before, "seconds": seconds}
    text = f"{options.file} ({before:,} bytes) -> {output} in {seconds:.2f} s"
    _print(options, report, text, to_stderr=output == "-")
    return 0


def _decompress_to_stdout(path: str, format: str | None, options: argparse.Namespace) -> None:
    from tersor.restore import decompress_file

    if format == "huggingface":
        raise UsageError("a Hugging Face folder cannot go to standard output; name a folder with -o")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "checkpoint"
        decompress_file(path, target, format, threads=options.threads, max_bytes=options.max_bytes)
        with open(target, "rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)


def _inspect(options: argparse.Namespace) -> int:
    from tersor.report.inspection import inspect
    from tersor.report.tables import inspection_text

    with _input_path(options.file) as path:
        found = inspect(path, full=options.full)
    _print(options, found.to_dict(), inspection_text(found))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from tersor.container.reader import Reader
    from tersor.parallel import thread_pool

    reports = []
    for name in options.files:
        with _input_path(name) as path, Reader(path) as reader, thread_pool(None) as executor:
            reader.verify()
            count = sum(1 for _ in reader.tensors(executor))
            reader.attachments()
            reports.append({"file": name, "tensors": count, "content_id": reader.content_id.hex(), "ok": True})
        if not options.json:
            print(f"{name}: ok, {count} tensors, content id {reports[-1]['content_id']}")
    if options.json:
        print(json.dumps(reports, indent=2))
    return 0


def _diff(options: argparse.Namespace) -> int:
    from tersor.report.comparison import compare
    from tersor.report.tables import comparison_text

    found = compare(options.a, options.b)
    _print(options, found.to_dict(), comparison_text(found))
    return 0 if found.identical else 6


def _demo(options: argparse.Namespace) -> int:
    from tersor.demo import run_demo

    run_demo(options.output, seed=options.seed, force=options.force)
    return 0


def _return_freed_memory() -> None:
    """Keeps the peak near the largest tensor: glibc would otherwise learn to keep blocks of up to 32 MiB in each
    thread's arena after they are freed. Setting the threshold turns that learning off."""
    if platform.libc_ver()[0] == "glibc":
        mmap_threshold = -3  # M_MMAP_THRESHOLD of malloc.h
        ctypes.CDLL(None).mallopt(mmap_threshold, 4 << 20)


@contextmanager
def _input_path(name: str) -> Iterator[str]:
    """The path of an input; standard input is copied to a temporary file first, since readers seek."""
    if name != "-":
        yield name
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stdin"
        with open(path, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield str(path)


@contextmanager
def _output_file(name: str, force: bool) -> Iterator[Any]:
    from tersor.files import atomic_file

    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with atomic_file(name, force=force) as file:
        yield file


def _output_name(options: argparse.Namespace, path: str, suffix: str) -> str:
    """The output that was asked for, or else the input's name with another suffix.

    UsageError where that is the input itself, or where standard input leaves no name to go by.
    """
    given = options.input if hasattr(options, "input") else options.file
    if options.output is not None:
        same = os.path.exists(options.output) and os.path.exists(path) and os.path.samefile(options.output, path)
        if same:
            raise UsageError(f"{options.output}: the output is the input; name another with -o")
        return str(options.output)
    if given == "-":
        raise UsageError("standard input has no name for the output to follow; give -o (- is standard output)")
    source = Path(path)
    name = source.name if source.is_dir() else source.stem
    target = source.with_name(name + suffix) if name else source.resolve().with_name(source.resolve().name + suffix)
    if target.name == source.name:
        raise UsageError(f"{path}: the output would be named as the input; name another with -o")
    return str(target)


def _print(options: argparse.Namespace, report: dict[str, Any], text: str, *, to_stderr: bool = False) -> None:
    stream = sys.stderr if to_stderr else sys.stdout
    print(json.dumps(report, indent=2) if options.json else text, file=stream)


def _show_warning(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
    print(f"tersor: warning: {message}", file=sys.stderr)
