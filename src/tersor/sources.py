"""Networks, samples and metrics by name, as a command line gives them.

A network is "package.module:factory", "hf:FOLDER" (transformers) or "timm:NAME"; samples and metrics are
"package.module:attribute". Modules are imported with the current folder on the path, and run as the user's own code.
Weights never come from here, and nothing is downloaded.
"""

from __future__ import annotations

import copy
import importlib
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tersor.errors import InputError, MissingExtraError, TersorError, TersorWarning, UsageError

_FORMS = "package.module:factory, hf:FOLDER or timm:NAME"


def load_model(spec: str, *, seed: int = 0) -> nn.Module:
    """The network that `spec` names, in evaluation mode, with whatever weights it is made with.

    "package.module:name": an nn.Module (of which a copy is given), or a function that returns one when called without
    arguments. "hf:FOLDER": the class that the folder's config names, from transformers; local files only, and no code
    of the folder is run. "timm:NAME": `timm.create_model(NAME)`, not pretrained.
    seed: of torch's, random's and numpy's global generators, which are left wherever the code drew them to.

    Raises UsageError where the name leads nowhere, its code fails or gives no nn.Module; InputError for a folder that
    is no model of transformers; MissingExtraError without transformers or timm.
    """
    _seed(seed)
    kind, _, name = spec.partition(":")
    if kind == "hf":
        model = _from_transformers(name)
    elif kind == "timm":
        model = _from_timm(name)
    else:
        found = _attribute(spec, _FORMS)
        if isinstance(found, nn.Module):
            model = copy.deepcopy(found)
        else:
            model = _called(found, spec) if callable(found) else found
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"{spec} gives {_kind(model)}, not an nn.Module; name one, or a function without arguments that returns one"
        )
    return model.eval()


def load_samples(spec: str, *, seed: int = 0) -> list[Any]:
    """The batches that "package.module:name" names: an iterable of them, or a function that returns one.

    What can be gone through only once, or in another order each time (iterators, DataLoaders), is drawn once, with a
    TersorWarning. Tensors and mappings are one batch. The same `seed` draws the same batches (see `load_model`).
    Raises UsageError where there are no batches, or the code fails.
    """
    _seed(seed)  # of what is drawn on import
    found = _attribute(spec, "package.module:samples")
    _seed(seed)  # wherever it was imported
    if callable(found) and not isinstance(found, Iterable):
        found = _called(found, spec)
    if isinstance(found, (Mapping, Tensor)):
        return [found]
    if not isinstance(found, Iterable) or isinstance(found, (str, bytes)):
        raise UsageError(f"{spec} gives {_kind(found)}; calibration needs an iterable of batches (tensors, say)")
    with _errors_of(spec, "drawing its batches"):
        batches = list(found)
    if not batches:
        raise UsageError(f"{spec} gives no batches; calibration needs one at least (is an iterator used up?)")
    if isinstance(found, (Iterator, DataLoader)):
        warnings.warn(
            f"{spec} is {_kind(found)}: its {len(batches)} batches are drawn once, and kept in memory",
            TersorWarning,
            stacklevel=2,
        )
    return batches


def load_metric(spec: str) -> Callable[[nn.Module], float]:
    """The function "package.module:name": of a network, a number, higher is better. UsageError where it is none."""
    found = _attribute(spec, "package.module:metric")
    if not callable(found) or isinstance(found, nn.Module):
        raise UsageError(f"{spec} is {_kind(found)}; a metric is a function of a network that returns a number")
    return cast(Callable[[nn.Module], float], found)


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % (1 << 32))


def _attribute(spec: str, forms: str) -> Any:
    module_name, colon, path = spec.partition(":")
    if not colon or not module_name or not all(part.isidentifier() for part in path.split(".")):
        raise UsageError(f"{spec!r} is no name of the form {forms}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        with _errors_of(spec, f"importing {module_name}"):
            found: Any = importlib.import_module(module_name)
    except UsageError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and _is_part(cause.name, module_name):
            hint = "; leave out .py" if module_name.endswith(".py") else ""
            raise UsageError(
                f"{spec}: there is no module {cause.name!r} in the current folder, nor is one installed{hint}"
            ) from cause
        raise
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise UsageError(f"{spec}: {module_name} has no {path}") from error
    return found


def _is_part(name: str | None, module: str) -> bool:
    """Whether `name` is `module`, or a package that it lies in."""
    return name is not None and f"{module}.".startswith(f"{name}.")


def _called(function: Callable[[], Any], spec: str) -> Any:
    with _errors_of(spec, "calling it without arguments"):
        return function()


@contextmanager
def _errors_of(spec: str, doing: str) -> Iterator[None]:
    """Turns whatever the user's code raises into UsageError."""
    try:
        yield
    except TersorError:
        raise
    except (Exception, SystemExit) as error:
        text = " ".join(f": {error}".split()) if str(error) else ""
        raise UsageError(f"{spec}: {doing} raised {type(error).__name__}{text}") from error


def _from_transformers(folder: str) -> nn.Module:
    transformers = _require("transformers", f"hf:{folder}")
    if not (Path(folder) / "config.json").is_file():
        raise InputError(f"hf:{folder}: {folder} is no folder with a config.json")
    with _errors_of(f"hf:{folder}", "making its model from config.json"):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        name = (getattr(config, "architectures", None) or [None])[0]
        if name is None:
            return transformers.AutoModel.from_config(config, trust_remote_code=False)
        architecture = getattr(transformers, name, None)
        if architecture is None:
            raise InputError(
                f"hf:{folder}: the installed transformers has no {name}; install a version that has it, or give "
                "package.module:factory (code that a folder brings along is not run)"
            )
        return architecture(config)


def _from_timm(name: str) -> nn.Module:
    timm = _require("timm", f"timm:{name}")
    with _errors_of(f"timm:{name}", "making it"):
        return timm.create_model(name, pretrained=False)


def _require(module: str, spec: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(f"{spec} needs the package {module}; install it with: pip install {module}") from error


def _kind(value: Any) -> str:
    """For messages."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "None" if value is None else f"a {type(value).__name__}"
