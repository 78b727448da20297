"""`tersor inspect | verify | diff`: commands that write nothing."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tersor.cli.streams import input_path, print_report


def add_reading(commands: Any) -> None:
    """Adds the commands and their options."""
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


def _inspect(options: argparse.Namespace) -> int:
    from tersor.report.inspection import inspect
    from tersor.report.tables import inspection_text

    with input_path(options.file) as path:
        found = inspect(path, full=options.full)
    print_report(options, found.to_dict(), inspection_text(found))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from tersor.container.reader import Reader
    from tersor.parallel import thread_pool

    reports = []
    for name in options.files:
        with input_path(name) as path, Reader(path) as reader, thread_pool(None) as executor:
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
    print_report(options, found.to_dict(), comparison_text(found))
    return 0 if found.identical else 6
