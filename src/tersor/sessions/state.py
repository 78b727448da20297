"""What a session is at a step, as plain types and tensors: read back by `torch.load(weights_only=True)`."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tersor.errors import ResumeError, TersorError, shortlist
from tersor.recipe import Recipe
from tersor.structure.manifest import Manifest

FORMAT = 1
"""Of the dictionary that `Session.state_dict` gives."""

_KINDS: dict[str, tuple[type, ...]] = {
    "structure": (str,),
    "steps": (int, type(None)),
    "done": (int,),
    "model": (Mapping,),
    "optimizer": (Mapping, type(None)),
    "distillation": (Mapping, type(None)),
    "pruning": (list, tuple),
    "companions": (Mapping,),
    "random": (list, tuple),
}
"""What the dictionary holds beside the recipe."""


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


@contextmanager
def resume_errors() -> Iterator[None]:
    """Whatever a state of a wrong content brings about is a ResumeError."""
    try:
        yield
    except ResumeError:
        raise
    except (TersorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        said = error if isinstance(error, TersorError) else f"{type(error).__name__}: {error}"
        raise ResumeError(f"the state cannot be gone on from here: {said}") from error


def check_state(state: Any, recipe: Recipe) -> None:
    """ResumeError unless `state` is of this recipe, and holds all that `Session.state_dict` gives."""
    if not isinstance(state, Mapping):
        raise ResumeError(f"a state is what session.state_dict() gave, got a {type(state).__name__}")
    check_recipe(state.get("recipe"), recipe)
    for key, kinds in _KINDS.items():
        if not isinstance(state.get(key, ...), kinds) or isinstance(state[key], bool):
            found = f"is a {type(state[key]).__name__}" if key in state else "is not there"
            raise ResumeError(f"{key!r} of the state {found}; give what session.state_dict() or session.save() gave")
    if state["done"] < 0 or not state["random"]:
        raise ResumeError("'done' and 'random' of the state make no sense; give what session.state_dict() gave")


def check_steps(saved: int | None, here: int | None) -> None:
    """ResumeError unless both trainings have the same number of steps: techniques follow their share that is over."""
    if saved != here:
        raise ResumeError(
            f"the state is of a training of {_counted(saved)}, this one is of {_counted(here)}, and techniques follow "
            f"the share of them that is over; call prepare with steps={saved}"
        )


def check_tensors(saved: Mapping[str, Any], here: Mapping[str, Any], what: str) -> None:
    """ResumeError, naming the first tensors, unless names, shapes and dtypes are the same. what: they are of."""
    missing = [name for name in here if name not in saved]
    more = [name for name in saved if name not in here]
    if missing or more:
        parts = [f"it has no {shortlist(missing)}"] * bool(missing) + [f"{shortlist(more)} are not here"] * bool(more)
        raise ResumeError(f"the state is of another {what}: {'; '.join(parts)}")
    for name, own in here.items():
        value = saved[name]
        if not isinstance(value, Tensor) or not isinstance(own, Tensor):
            continue  # extra states of modules
        if value.shape != own.shape or value.dtype != own.dtype:
            raise ResumeError(
                f"the state is of another {what}: {name} is {value.dtype} of shape {tuple(value.shape)} in the state, "
                f"{own.dtype} of shape {tuple(own.shape)} here"
            )


def check_teaching(saved: Mapping[str, Any] | None, here: nn.Module | None) -> None:
    """ResumeError unless both sessions learn from a teacher, with the same parameters, or neither does."""
    if (saved is None) != (here is None):
        there, own = ("without", "with") if saved is None else ("with", "without")
        raise ResumeError(
            f"the state is of a session {there} a teacher (or distillation), but this one is {own}; prepare it {there}"
        )
    if saved is not None and here is not None:
        check_tensors(saved, here.state_dict(), "distillation")


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


def _counted(steps: int | None) -> str:
    return "an unknown number of steps" if steps is None else f"{steps} steps"
