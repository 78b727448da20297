"""The manifest among the attachments of a file: tersor's own, or metadata of the checkpoint it was made from."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from tersor.errors import CorruptFileError, InputError, StructureError
from tersor.interop.huggingface import LAYOUT
from tersor.interop.safetensors import METADATA
from tersor.interop.torch_file import STRUCTURE
from tersor.interop.torch_structure import unflatten
from tersor.structure.carried import manifest_of
from tersor.structure.manifest import NAME, Manifest


def stored_manifest(names: Collection[str], read: Callable[[str], bytes], tensors: Sequence[str]) -> Manifest | None:
    """What was removed from the network whose tensors a file holds; None if it says nothing of that.

    names: of the attachments. read: gives one. tensors: names of the tensors, in order.
    Besides tersor's own attachment, the metadata of safetensors files (key "tersor.structure"), also in folders, and of
    state_dicts that torch.save wrote count. CorruptFileError if what they say is damaged.
    """
    try:
        if NAME in names:
            return Manifest.from_json(read(NAME))
        if METADATA in names:
            text = json.loads(read(METADATA)).get(NAME)
            return None if text is None else Manifest.from_json(text)
        if STRUCTURE in names:
            return _of_nest(unflatten(read(STRUCTURE), tensors, f"attachment {STRUCTURE!r}")) or None
        if LAYOUT in names:
            text = layout_manifest({LAYOUT: read(LAYOUT)})
            return None if text is None else Manifest.from_json(text)
    except (StructureError, InputError, ValueError, AttributeError, RecursionError) as error:
        raise CorruptFileError(f"what the file says of the network's structure cannot be read: {error}") from error
    return None


def layout_manifest(attachments: Mapping[str, bytes]) -> str | None:
    """The manifest's text in the metadata of a Hugging Face folder's first file that has one; None without it.

    What cannot be read says nothing: folders are whole without it.
    """
    try:
        for entry in json.loads(attachments.get(LAYOUT, b"{}")).get("weights", ()):
            text = json.loads(entry["attachments"].get(METADATA, "{}")).get(NAME)
            if isinstance(text, str):
                return text
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        pass
    return None


def _of_nest(nest: Any) -> Manifest:
    """Of what torch.save was given: a state_dict, or a dict that holds one."""
    found = manifest_of(nest) if isinstance(nest, dict) else Manifest()
    if not found and isinstance(nest, dict):
        parts = [manifest_of(part) for part in nest.values() if isinstance(part, dict)]
        found = next((part for part in parts if part), found)
    return found
