"""The structure of a network: which positions of which tensors shrink together."""

from tersor.structure.groups import Frozen, Group, Groups, Member, Selection, find_groups
from tersor.structure.masked import masked_output
from tersor.structure.trace import Trace, TraceError, trace

__all__ = [
    "Frozen",
    "Group",
    "Groups",
    "Member",
    "Selection",
    "Trace",
    "TraceError",
    "find_groups",
    "masked_output",
    "trace",
]
