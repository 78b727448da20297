"""The manifest that a shrunk network carries: in its state_dict's metadata, where torch.save keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tersor.errors import StructureError
from tersor.structure.edits import Edits
from tersor.structure.manifest import NAME, Manifest, apply_manifest


class Carried:
    """A state_dict hook that writes the manifest into the metadata; copies of the module keep it."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def __call__(self, module: nn.Module, state_dict: Any, prefix: str, local_metadata: dict[str, Any]) -> None:
        """See `nn.Module._register_state_dict_hook`."""
        local_metadata[NAME] = self.manifest.to_json()


def carry(module: nn.Module, manifest: Manifest, edits: Edits) -> None:
    """Lets `module` carry `manifest`, and nothing else; its submodules none."""
    for part in module.modules():
        hooks: dict[Any, Any] = {key: hook for key, hook in part._state_dict_hooks.items() if key != NAME}
        if part is module:
            hooks[NAME] = Carried(manifest)  # torch's own keys are numbers that it counts up
        if hooks != part._state_dict_hooks:
            edits.hook(part._state_dict_hooks, hooks)


def manifest_of(source: nn.Module | Mapping[str, Tensor]) -> Manifest:
    """What was removed from a network, or from the one whose state_dict is given; an empty manifest for nothing.

    Of a module that holds shrunk ones, names are those of the whole. A state_dict tells by its `_metadata`, which
    copies as a plain dict lose. StructureError if that is damaged.
    """
    found = Manifest()
    for prefix, own in _carried(source):
        found = found.then(own.within(prefix))
    return found


def attachments_of(source: nn.Module | Mapping[str, Tensor]) -> dict[str, bytes]:
    """What a file of these tensors must hold beside them: the manifest, if there is one."""
    manifest = manifest_of(source)
    return {NAME: manifest.to_json().encode()} if manifest else {}


def rebuild(module: nn.Module, source: Manifest | Mapping[str, Tensor] | str) -> nn.Module:
    """Makes a fresh instance of a shrunk network's class as small as that network, in place, and returns it.

    source: the shrunk network's state_dict (with its metadata, as torch.save and torch.load keep it), its manifest, or
        the manifest's JSON text.
    Values are not loaded: call `module.load_state_dict(state_dict)` then. StructureError if `source` says nothing of a
    structure, or `module` is not of the class that was shrunk; it is unchanged then.
    """
    if isinstance(source, str):
        source = Manifest.from_json(source)
    manifest = source if isinstance(source, Manifest) else manifest_of(source)
    if not manifest:
        raise StructureError(
            "the state_dict says nothing of a structure: it is not of a shrunk network, or it was copied without its "
            "_metadata; give the one that model.state_dict() or torch.load returned, or the manifest"
        )
    edits = Edits()
    apply_manifest(module, manifest, edits)
    carry(module, manifest, edits)
    return module


def _carried(source: nn.Module | Mapping[str, Tensor]) -> list[tuple[str, Manifest]]:
    """(prefix, manifest), outer ones first."""
    if isinstance(source, nn.Module):
        return [
            (prefix, hook.manifest)
            for prefix, part in source.named_modules()
            for hook in part._state_dict_hooks.values()
            if isinstance(hook, Carried)
        ]
    metadata = getattr(source, "_metadata", None) or {}
    return [
        (prefix, Manifest.from_json(own[NAME]))
        for prefix, own in metadata.items()
        if isinstance(own, Mapping) and NAME in own
    ]
