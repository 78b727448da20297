"""Which positions of which tensors shrink together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Selection = Mapping[str, Sequence[int]]
"""Group name -> the units that are removed."""


@dataclass(frozen=True)
class Member:
    """One dimension of one tensor of a group.

    tensor:  its name in the state_dict (parameters and buffers; a tied tensor is listed under each name).
    dim:     the dimension.
    indices: for each unit of the group, the positions along `dim` that go with it, ascending.
    role:    "output": the tensor computes the channel; "input": it reads it; "vector": one number a channel
             (norms, biases, running moments) or a table whose columns they are.
    """

    tensor: str
    dim: int
    indices: tuple[tuple[int, ...], ...]
    role: str


@dataclass(frozen=True)
class Group:
    """Units that are members of the same dimensions of the same tensors; each can be removed by itself.

    name:       the tensor of the first output member; a number is added where that name is taken.
    kind:       "channel", "head" (of attention) or "hidden" (of a recurrent layer).
    units:      how many there are.
    normalised: the channels pass a normalisation over channels (layer, group or RMS norm, a mean), so that
                removing some changes what the others become.
    """

    name: str
    kind: str
    units: int
    members: tuple[Member, ...]
    normalised: bool


@dataclass(frozen=True)
class Frozen:
    """A dimension of a tensor that keeps (some of) its positions, and why."""

    tensor: str
    dim: int
    reason: str


@dataclass(frozen=True)
class Groups:
    """What of a network can shrink, and what cannot."""

    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
