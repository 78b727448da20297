"""The structure of a network: which positions of which tensors shrink together, and networks without some of them.

Here is what needs no tracing, which would slow the import of everything else down; `trace.trace`, `groups.find_groups`
and `surgery.shrink` are imported from their files.
"""

from tersor.structure.blocks import drop_blocks, droppable
from tersor.structure.carried import manifest_of, rebuild
from tersor.structure.manifest import Manifest, apply_manifest

__all__ = ["Manifest", "apply_manifest", "drop_blocks", "droppable", "manifest_of", "rebuild"]
