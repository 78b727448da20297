"""The command line: `tersor compress | decompress | diagnose | inspect | verify | diff | demo`.

Exit codes: 0 done; 1 another error; 2 wrong options, recipe or pattern; 3 an input that cannot be read or is not
supported; 4 a damaged .tsr file; 5 an output that exists or cannot be written; 6 `diff` found differences,
or weights, model and samples do not fit; 130 interrupted.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from tersor._version import __version__
from tersor.cli.compress import add_compress
from tersor.cli.decompress import add_decompress
from tersor.cli.diagnose import add_diagnose
from tersor.cli.reading import add_reading
from tersor.errors import TersorError, TersorWarning


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Errors go to stderr as one line."""
    options = _parser().parse_args(arguments)
    _tune_memory(keep=getattr(options, "model", None) is not None)
    warnings.showwarning = _show_warning
    warnings.simplefilter("ignore")  # of libraries: nothing that a user of the command line can act on
    warnings.simplefilter("always", TersorWarning)
    try:
        return int(options.run(options))
    except TersorError as error:
        print(f"tersor: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        print(f"tersor: interrupted; {interrupt if interrupt.args else 'nothing was written'}", file=sys.stderr)
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
    add_compress(commands)
    add_decompress(commands)
    add_diagnose(commands)
    add_reading(commands)
    command = commands.add_parser("demo", help="train, prune, cluster and code a small network on real digits")
    command.add_argument("-o", "--output", default="digits.tsr", help="file to write (default: %(default)s)")
    command.add_argument("--force", action="store_true", help="replace an output that exists")
    command.add_argument("--seed", type=int, default=0, help="of the training (default: %(default)s)")
    command.set_defaults(run=_demo)
    return parser


def _demo(options: argparse.Namespace) -> int:
    from tersor.demo import run_demo

    run_demo(options.output, seed=options.seed, force=options.force)
    return 0


def _tune_memory(*, keep: bool) -> None:
    """How malloc treats memory that is freed.

    keep: for networks, which ask for the same activations in every batch: taking them from the system each time costs
          more than half as much as the convolutions. Else the peak stays near the largest tensor: glibc would learn to
          keep blocks of up to 32 MiB in each thread's arena after they are freed. Setting the threshold turns that off.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        malloc = ctypes.CDLL(None)
        malloc.mallopt(mmap_threshold, (32 if keep else 4) << 20)
        if keep:
            malloc.mallopt(trim_threshold, 1 << 30)


def _show_warning(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
    print(f"tersor: warning: {message}", file=sys.stderr)
