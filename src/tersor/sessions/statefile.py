"""The file of a session's state: plain types and tensors, complete or absent, with a checksum of its content."""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from torch import Tensor

from tersor.container.checksum import ContentId
from tersor.errors import InputError, UsageError
from tersor.files import atomic_file
from tersor.sessions.arguments import as_path
from tersor.sessions.state import FORMAT

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
_REMEDIES = {
    np.ndarray: "give torch.from_numpy(...) of it, or its tolist()",
    os.PathLike: "give str(...) of it",
}


def plain(value: Any, place: str) -> Any:
    """`value` as it can be read back: numpy's scalars become Python's, containers are copied, tensors are not.

    place: where it is, for the UsageError about whatever is neither a plain type nor a tensor.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) in _PLAIN or (isinstance(value, Tensor) and value.layout is torch.strided):
        return value
    if type(value) in (list, tuple, set):
        return type(value)(plain(item, f"{place}[{number}]") for number, item in enumerate(value))
    if type(value) in (dict, OrderedDict, Counter):
        items = {plain(k, f"a key of {place}"): plain(item, f"{place}[{k!r}]") for k, item in value.items()}
        return items if type(value) is dict else type(value)(items)
    remedy = next((words for kind, words in _REMEDIES.items() if isinstance(value, kind)), None)
    raise UsageError(
        f"{place} is a {type(value).__name__}, which a state cannot hold; "
        + (remedy or "give numbers, text, tensors, and lists and dictionaries of them")
    )


def write_state(state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes a state, complete or not at all; what stood there before is replaced. OutputError as `atomic_file`."""
    with atomic_file(path, force=True) as file:
        torch.save({**state, "checksum": checksum(state)}, file)


def read_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `write_state` wrote. InputError for anything else, damage included; no code of the file is run."""
    place = as_path("load: the state's file", path)
    state = _read(place)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{place}: is no state of a session; give what session.save() wrote")
    if state.pop("checksum", None) != checksum(state):
        raise InputError(f"{place}: is damaged: it does not hold what was written; go on from another state")
    return state


def checksum(state: Mapping[str, Any]) -> str:
    """BLAKE3 of the content, cut to 128 bits, as 32 hexadecimal digits."""
    content = ContentId()
    _note(state, content)
    return content.digest().hex()


def _note(value: Any, content: ContentId) -> None:
    """Types and sizes go before what they are of, so that no two contents give the same bytes."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu().reshape(-1).contiguous()
        content.update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
        content.update(flat.view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        content.update(f"mapping {len(value)};".encode())
        for key, item in value.items():
            _note(key, content)
            _note(item, content)
    elif isinstance(value, (list, tuple)):
        content.update(f"list {len(value)};".encode())
        for item in value:
            _note(item, content)
    else:
        text = repr(sorted(value, key=repr) if isinstance(value, set) else value).encode()
        content.update(f"{type(value).__name__} {len(text)};".encode() + text)


def _read(path: Path) -> Any:
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the file that session.save() wrote")
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # whatever torch makes of foreign bytes
        more = isinstance(error, UnpicklingError) and is_zipfile(path)
        what = (
            "it holds more than plain types and tensors, and none of its code was run"
            if more
            else "cut off, or changed"
        )
        raise InputError(
            f"{path}: is damaged, or no state of a session ({what}); give what session.save() wrote"
        ) from error
