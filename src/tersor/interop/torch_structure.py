"""The nest of a torch file without its tensors: what `torch.save` was given, as JSON.

A node is null, a bool, number or string for itself, a list for a list, or an object with one of the keys:
- "tensor": [index, requires_grad], "parameter": likewise; the index counts the checkpoint's tensors
- "dict", "ordered", "counter": pairs [key, value], both nodes, where {"run": [first, count, prefix]}
  stands for `count` plain tensors with the keys prefix + name; "ordered" may have "attributes", pairs too
  (`_metadata`)
- "tuple", "set": a list of nodes; "size": a list of ints; "bytes", "bytearray": base64
- "complex": [real, imaginary]; "dtype", "device": the name
"""

from __future__ import annotations

import base64
import json
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tersor.errors import InputError, UnsupportedTypeError

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "params", "ema")
_PARALLEL = "module."
_DAMAGE = (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError, AttributeError, StopIteration)
_NODE_LIMIT = 5_000_000
_SCALARS = (bool, int, float, str, type(None))
_MAPPINGS: dict[type, str] = {dict: "dict", OrderedDict: "ordered", Counter: "counter"}


class Leaf(NamedTuple):
    """Where a tensor lies in the nest that `unflatten` builds. position: in the checkpoint's tensors."""

    position: int
    requires_grad: bool
    is_parameter: bool


def flatten(root: Any, where: str) -> tuple[dict[str, Tensor], bytes]:
    """The tensors of `root` by name, in its order, and the structure around them.

    A tensor is named by its path, joined with "."; inside the state_dict of a training checkpoint by the path
    from there, without the "module." of DataParallel. UnsupportedTypeError names an object that is neither a
    tensor nor plain data; InputError a nest too deep or too large.
    """
    encoder = _Encoder(root, where)
    try:
        node = encoder.node(root, ())
        text = json.dumps({"tensors": _fingerprint(encoder.tensors), "root": node}, separators=(",", ":"))
    except (RecursionError, ValueError) as error:
        raise InputError(f"{where}: the nest of dicts and lists is too deep, or damaged ({error})") from error
    return encoder.tensors, text.encode()


def of_state_dict(names: Sequence[str], metadata: Mapping[str, str]) -> bytes:
    """The structure of a state_dict of these tensors whose module says `metadata` of itself (`_metadata`)."""
    own = [["", {"dict": [[key, value] for key, value in metadata.items()]}]]
    root = {"ordered": [{"run": [0, len(names), ""]}], "attributes": [["_metadata", {"ordered": own}]]}
    return json.dumps({"tensors": _fingerprint(names), "root": root}, separators=(",", ":")).encode()


def unflatten(structure: bytes, names: Sequence[str], where: str) -> Any | None:
    """The nest that `structure` describes, with a `Leaf` for each tensor; None if it is one of other tensors.

    names: of the checkpoint's tensors, in order. InputError if the structure is damaged.
    """
    try:
        top = json.loads(structure)
        if top["tensors"] != _fingerprint(names):
            return None
        return _Decoder(names).value(top["root"])
    except _DAMAGE as error:
        raise InputError(f"{where}: the structure of the torch file is damaged ({error!r})") from error


def _fingerprint(names: Iterable[str]) -> list[int]:
    """Count and checksum of names: tells whether a structure belongs to these tensors."""
    listed = list(names)
    return [len(listed), zlib.crc32(json.dumps(listed).encode())]


class _Encoder:
    """Walks the nest once; `tensors` fills up on the way."""

    def __init__(self, root: Any, where: str) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._where = where
        self._nodes = 0
        self._wrapper = _find_wrapper(root)
        self._prefix = ""
        state = root if self._wrapper is None else root[self._wrapper]
        if isinstance(state, dict):
            keys = [key for key, value in state.items() if isinstance(value, Tensor)]
            if keys and all(isinstance(key, str) and key.startswith(_PARALLEL) for key in keys):
                self._prefix = _PARALLEL

    def node(self, value: Any, path: tuple[Any, ...]) -> Any:
        """The JSON node of `value`, which lies at `path`."""
        self._nodes += 1
        if self._nodes > _NODE_LIMIT:
            raise InputError(f"{self._where}: more than {_NODE_LIMIT} objects; the file is damaged or malicious")
        kind = type(value)
        if kind in _SCALARS:
            return value
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if kind in _MAPPINGS:
            node = {_MAPPINGS[kind]: self._pairs(value, path)}
            if getattr(value, "__dict__", None):
                node["attributes"] = self._pairs(vars(value), (*path, "attributes"))
            return node
        if kind in (list, tuple, set):
            items = [self.node(item, (*path, index)) for index, item in enumerate(value)]
            return items if kind is list else {kind.__name__: items}
        if kind in (bytes, bytearray):
            return {kind.__name__: base64.b64encode(value).decode()}
        if kind is torch.Size:
            return {"size": list(value)}
        if kind is complex:
            return {"complex": [value.real, value.imag]}
        if kind in (torch.dtype, torch.device):
            return {kind.__name__: str(value).removeprefix("torch.")}
        at = ".".join(map(str, path)) or "the whole file"
        raise UnsupportedTypeError(
            f"{self._where}: {at} is a {kind.__module__}.{kind.__qualname__}, "
            "neither a tensor nor plain data; save model.state_dict() alone"
        )

    def _tensor(self, value: Tensor, path: tuple[Any, ...]) -> Any:
        name = self._name(path)
        index = len(self.tensors)
        self.tensors[name] = value
        key = "parameter" if isinstance(value, torch.nn.Parameter) else "tensor"
        return {key: [index, value.requires_grad]}

    def _name(self, path: tuple[Any, ...]) -> str:
        if self._wrapper is not None and path[0] == self._wrapper:
            path = path[1:]
            name = ".".join(map(str, path)).removeprefix(self._prefix)
        else:
            name = ".".join(map(str, path))
            if self._wrapper is None:
                name = name.removeprefix(self._prefix)
        name = base = name or "tensor"
        count = 1
        while name in self.tensors:
            count += 1
            name = f"{base}~{count}"
        return name

    def _pairs(self, mapping: dict[Any, Any], path: tuple[Any, ...]) -> list[Any]:
        pairs: list[Any] = []
        for key, value in mapping.items():
            first = len(self.tensors)
            node = self.node(value, (*path, key))
            if type(value) is Tensor and not value.requires_grad and type(key) is str:
                name = next(reversed(self.tensors))
                if key.endswith(name):
                    self._extend(pairs, first, key[: len(key) - len(name)])
                    continue
            pairs.append([self.node(key, (*path, key)), node])
        return pairs

    @staticmethod
    def _extend(pairs: list[Any], index: int, prefix: str) -> None:
        """Adds one plain tensor to the run at the end of `pairs`, or begins a run."""
        last = pairs[-1].get("run") if pairs and isinstance(pairs[-1], dict) else None
        if last is not None and last[0] + last[1] == index and last[2] == prefix:
            last[1] += 1
        else:
            pairs.append({"run": [index, 1, prefix]})


class _Decoder:
    """Builds the nest; each tensor may be used once, so that a small structure stays a small nest."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._unused = set(range(len(names)))
        self._kinds: dict[str, Callable[[Any], Any]] = {
            "tensor": lambda v: self._leaf(v, False),
            "parameter": lambda v: self._leaf(v, True),
            "dict": lambda v: dict(self._pairs(v)),
            "counter": lambda v: Counter(dict(self._pairs(v))),
            "ordered": lambda v: OrderedDict(self._pairs(v)),
            "tuple": lambda v: tuple(self.value(item) for item in v),
            "set": lambda v: {self.value(item) for item in v},
            "bytes": lambda v: base64.b64decode(v, validate=True),
            "bytearray": lambda v: bytearray(base64.b64decode(v, validate=True)),
            "size": torch.Size,
            "complex": lambda v: complex(*v),
            "dtype": _dtype,
            "device": torch.device,
        }

    def value(self, node: Any) -> Any:
        """What `node` stands for."""
        if type(node) in _SCALARS:
            return node
        if isinstance(node, list):
            return [self.value(item) for item in node]
        kind = next(iter(node))
        built = self._kinds[kind](node[kind])
        if "attributes" in node and kind == "ordered":
            built.__dict__.update(self._pairs(node["attributes"]))
        return built

    def _leaf(self, fields: list[Any], is_parameter: bool) -> Leaf:
        index, requires_grad = fields
        self._unused.remove(index)
        return Leaf(index, bool(requires_grad), is_parameter)

    def _pairs(self, pairs: list[Any]) -> list[tuple[Any, Any]]:
        built: list[tuple[Any, Any]] = []
        for pair in pairs:
            if isinstance(pair, dict):
                first, count, prefix = pair["run"]
                for index in range(first, first + count):
                    built.append((str(prefix) + self._names[index], self._leaf([index, False], False)))
            else:
                key, value = pair
                built.append((self.value(key), self.value(value)))
        return built


def _find_wrapper(root: Any) -> str | None:
    """The key of `root` under which the state_dict lies, None if `root` is one itself or holds none."""
    if not isinstance(root, dict):
        return None
    for key in _WRAPPERS:
        inner = root.get(key)
        if isinstance(inner, dict) and any(isinstance(value, Tensor) for value in inner.values()):
            return key
    return None


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name} is no dtype")
    return dtype
