"""What a session is at a step, as plain types and tensors: read back by `torch.load(weights_only=True)`."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tersor.errors import InputError, ResumeError
from tersor.files import atomic_file
from tersor.recipe import Recipe
from tersor.structure.manifest import Manifest

FORMAT = 1
"""Of the dictionary that `Session.state_dict` gives."""


def random_state() -> dict[str, Any]:
    """The states of torch's, numpy's and Python's own random numbers, and of all GPUs."""
    kind, words, position, has_gauss, cached = np.random.get_state(legacy=True)  # type: ignore[misc]
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(words).astype(np.int64)),
            int(position),
            int(has_gauss),
            cached,
        ],
        "python": [version, list(internal), gauss],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """The inverse of `random_state`; GPUs that are not there are left out."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, words, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, words.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def recipe_text(recipe: Recipe) -> str:
    """The recipe as JSON, always the same for the same recipe."""
    return json.dumps(recipe.to_list(), sort_keys=True)


def digest(text: str) -> str:
    """Of a recipe's text, 32 hexadecimal digits."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def check_recipe(saved: Any, recipe: Recipe) -> None:
    """ResumeError, saying which rule differs, unless `saved` is the text of this recipe."""
    own = recipe_text(recipe)
    if saved == own:
        return
    try:
        theirs = json.loads(saved)
        assert isinstance(theirs, list)
    except (ValueError, TypeError, AssertionError) as error:
        raise ResumeError("the state names no recipe; give what session.state_dict() or session.save() gave") from error
    ours = json.loads(own)
    for number, (a, b) in enumerate(zip(theirs, ours, strict=False), 1):
        if a != b:
            keys = [key for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)]
            differs = "; ".join(f"{key}: {a.get(key)!r} in the state, {b.get(key)!r} here" for key in keys)
            raise ResumeError(f"the state is of another recipe: rule {number} differs ({differs})")
    raise ResumeError(f"the state is of another recipe: it has {len(theirs)} rules, this one {len(ours)}")


def check_structure(saved: str, own: Manifest) -> None:
    """ResumeError unless a network that lost what the text `saved` says lost just what `own` says."""
    theirs = Manifest.from_json(saved)
    if theirs.to_json() != own.to_json():
        raise ResumeError(
            f"the state is of a network that lost other channels or blocks ({theirs}; this one: {own}); call prepare "
            "with the weights, example_inputs and calibration that it was called with for that state, or do what was "
            "done to the network before"
        )


def write_state(state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes a state, complete or not at all; what stood there before is replaced. OutputError as `atomic_file`."""
    with atomic_file(path, force=True) as file:
        torch.save(dict(state), file)


def read_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `write_state` wrote. InputError for anything else; no code of the file is run."""
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{path}: is no state of a session, or damaged ({error})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path}: is no state of a session; give what session.save() wrote")
    return state
