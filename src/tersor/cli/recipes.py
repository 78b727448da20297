"""Options that describe a recipe."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tersor.errors import UsageError

if TYPE_CHECKING:
    from tersor.recipe import Recipe

RECIPE_OPTIONS = ("lossless", "method", "group_size", "affine", "density", "include", "recipe")
"""Those that nothing but a recipe takes."""


def given_options(options: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """Which of `names` the user gave, as "--name"."""
    values = {name: getattr(options, name) for name in names}
    return [
        f"--{name.replace('_', '-')}"
        for name, value in values.items()
        if not (value is None or value is False or value == [])
    ]


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The recipe that the options describe. UsageError for options that contradict each other."""
    from tersor.pruning import Prune
    from tersor.quantization import Lossless
    from tersor.recipe import Recipe, Rule

    given = given_options(options, ("bits", *RECIPE_OPTIONS, "exclude"))
    for alone in ("--recipe", "--lossless"):
        others = [name for name in given if name != alone]
        if alone in given and others:
            raise UsageError(f"{alone} excludes {', '.join(others)}; give one or the other")
    if options.recipe:
        return Recipe.load(options.recipe)
    if options.lossless:
        return Recipe.lossless()
    prune = None if options.density is None else Prune(density=options.density)
    included = tuple(options.include) or "*"
    rules = [Rule(included, _representation(options), prune)]
    if not any(name in given for name in ("--bits", "--method", "--group-size", "--affine")):
        rules = [replace(rule, match=included, prune=prune) for rule in Recipe.default().rules]
    if options.exclude:
        rules.append(Rule(tuple(options.exclude), Lossless(), None if prune is None else Prune(density=1.0)))
    return Recipe(rules)


def _representation(options: argparse.Namespace) -> Any:
    from tersor.quantization import Binarize, Cast, FixedPoint, Palettize, Quantize, Ternarize

    method = options.method or "uniform"
    asked = _whole_bits(options.bits)
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
        return Palettize(bits=4 if asked is None else asked)
    bits = 8 if asked is None else asked
    if method == "fixed":
        return FixedPoint(bits=bits)
    granularity = "channel" if options.group_size is None else "group"
    return Quantize(bits=bits, symmetric=not options.affine, granularity=granularity, group_size=options.group_size)


def _whole_bits(bits: float | None) -> int | None:
    if bits is not None and bits != int(bits):
        raise UsageError(
            f"--bits {bits} is an average over weights, which needs --model and --calibration; without them, every "
            "weight gets the same whole number of bits"
        )
    return None if bits is None else int(bits)
