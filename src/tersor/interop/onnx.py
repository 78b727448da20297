"""ONNX models: initializers as tensors, the graph around them as it is.

Tensors are the initializers of the graph and its sub-graphs, external data included, and the values of
Constant nodes with at least 1024 elements. Strings and types below 8 bits stay in the graph.

Attachment: "onnx.model": the serialized ModelProto; a tensor taken out has no data, but an `external_data`
entry "tersor.tensor" with the tensor's name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from tersor.errors import InputError, MismatchError, UsageError
from tersor.interop.checkpoint import Checkpoint, CheckpointInfo, TensorInfo
from tersor.interop.extras import require
from tersor.interop.raw import (
    byte_count,
    check_shape,
    file_size,
    known_dtypes,
    new_bytes,
    open_input,
    read_tensor,
    tensor_bytes,
    tensor_of_bytes,
)

MODEL = "onnx.model"
_HOLE = "tersor.tensor"
_LEAST_CONSTANT = 1024
_LARGEST_MODEL = 2**31 - 1  # bytes of a protobuf message

# TensorProto.DataType -> torch dtype, the field of values that are not raw, and their numpy type in bits
_TYPES = {
    1: ("float32", "float_data", "<f4"),
    2: ("uint8", "int32_data", "u1"),
    3: ("int8", "int32_data", "u1"),
    4: ("uint16", "int32_data", "<u2"),
    5: ("int16", "int32_data", "<u2"),
    6: ("int32", "int32_data", "<i4"),
    7: ("int64", "int64_data", "<i8"),
    9: ("bool", "int32_data", "u1"),
    10: ("float16", "int32_data", "<u2"),
    11: ("float64", "double_data", "<f8"),
    12: ("uint32", "uint64_data", "<u4"),
    13: ("uint64", "uint64_data", "<u8"),
    14: ("complex64", "float_data", "<f4"),
    15: ("complex128", "double_data", "<f8"),
    16: ("bfloat16", "int32_data", "<u2"),
    17: ("float8_e4m3fn", "int32_data", "u1"),
    18: ("float8_e4m3fnuz", "int32_data", "u1"),
    19: ("float8_e5m2", "int32_data", "u1"),
    20: ("float8_e5m2fnuz", "int32_data", "u1"),
    24: ("float8_e8m0fnu", "int32_data", "u1"),
}
_DTYPES = {code: known_dtypes(entry[0])[0] for code, entry in _TYPES.items() if known_dtypes(entry[0])}
_DATA_FIELDS = (
    *("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"),
    *("external_data", "data_location"),
)


class OnnxFile(Checkpoint):
    """An ONNX model. Its graph is held in memory with the tensors that lie inside the file."""

    def __init__(self, path: str | PathLike[str]) -> None:
        """Parses the model and validates where external data lie."""
        self._path = Path(path)
        onnx = require("onnx", "onnx")
        self._external = onnx.TensorProto.EXTERNAL
        self._protos = dict(_weights(_parse(onnx, self._path)))
        infos = []
        for name, proto in self._protos.items():
            info = TensorInfo(name, tuple(proto.dims), _DTYPES[proto.data_type])
            check_shape(info.shape, f"{path}: tensor {name!r}")
            self._check_size(proto, info)
            infos.append(info)
        self.info = CheckpointInfo("onnx", tuple(infos), {MODEL: self._without_data(onnx)})
        self._infos = {info.name: info for info in infos}

    def _without_data(self, onnx: Any) -> bytes:
        """The model with a hole for each tensor, and what stays inside it made internal."""
        model = _parse(onnx, self._path)
        for name, proto in _weights(model):
            for field in _DATA_FIELDS:
                proto.ClearField(field)
            proto.external_data.add(key=_HOLE, value=name)
        for proto in _all_tensors(model):
            if proto.data_location == self._external:
                path, offset, length = self._place(proto, f"{self._path}: tensor {proto.name!r}")
                with open_input(path) as file:
                    file.seek(offset)
                    proto.raw_data = file.read(file_size(path) - offset if length is None else length)
                proto.ClearField("external_data")
                proto.ClearField("data_location")
        return bytes(model.SerializeToString(deterministic=True))

    def _check_size(self, proto: Any, info: TensorInfo) -> None:
        where = f"{self._path}: tensor {info.name!r}"
        if proto.data_location == self._external:
            path, offset, length = self._place(proto, where)
            found = min(length, file_size(path) - offset) if length is not None else file_size(path) - offset
            fits = found >= info.nbytes if length is None else found == length == info.nbytes
        elif proto.HasField("raw_data"):
            found = len(proto.raw_data)
            fits = found == info.nbytes
        else:
            _, field, bits = _TYPES[proto.data_type]
            found = len(getattr(proto, field)) * np.dtype(bits).itemsize
            fits = found == info.nbytes
        if not fits:
            raise InputError(f"{where}: shape {info.shape} of {info.dtype} takes {info.nbytes} bytes, {found} found")

    def _place(self, proto: Any, where: str) -> tuple[str, int, int | None]:
        """File, offset and length of external data; the file lies beside the model or below."""
        entries = {_text(entry.key): _text(entry.value) for entry in proto.external_data}
        location = entries.get("location", "")
        homes = {os.path.realpath(self._path.parent), os.path.dirname(os.path.realpath(self._path))}
        plain = location and "\0" not in location and not os.path.isabs(location) and ".." not in Path(location).parts
        path = os.path.realpath(self._path.parent / location) if plain else ""
        if not any(path.startswith(home.rstrip(os.sep) + os.sep) for home in homes):
            raise InputError(f"{where}: external data at {location!r} lie outside the model's folder; refused")
        try:
            offset = int(entries.get("offset", "0"))
            length = int(entries["length"]) if "length" in entries else None
        except ValueError as error:
            raise InputError(f"{where}: external data without a proper offset and length") from error
        if offset < 0 or (length is not None and length < 0) or offset + (length or 0) > file_size(path):
            raise InputError(f"{where}: its external data lie beyond the end of {path}; fetch both files again")
        return path, offset, length

    def read(self, name: str) -> Tensor:
        """The tensor `name`; see `Checkpoint.read`."""
        proto, info = self._protos[name], self._infos[name]
        where = f"{self._path}: tensor {name!r}"
        if proto.data_location == self._external:
            path, offset, _ = self._place(proto, where)
            with open_input(path) as file:
                return read_tensor(file, offset, info.dtype, info.shape, where)
        if proto.HasField("raw_data"):
            raw = np.frombuffer(proto.raw_data, np.uint8)
        else:
            _, field, bits = _TYPES[proto.data_type]
            raw = np.array(getattr(proto, field)).astype(bits).view(np.uint8)
        data = new_bytes(info.nbytes)
        data.numpy()[:] = raw
        return tensor_of_bytes(data, info.dtype, info.shape)

    def close(self) -> None:
        """Drops the model."""
        self._protos = {}


def write_onnx(checkpoint: Checkpoint, file: IO[bytes]) -> None:
    """Writes `checkpoint`, which came from an ONNX model, as that model with the tensors' present values.

    UsageError if the source was of another format, or the model exceeds the 2 GB of a protobuf message;
    MismatchError if a tensor of the graph is missing or has another shape or dtype.
    """
    info = checkpoint.info
    if MODEL not in info.attachments:
        raise UsageError(f"ONNX needs the graph of an ONNX source, this one is {info.format}; write .safetensors")
    total = sum(t.nbytes for t in info.tensors) + len(info.attachments[MODEL])
    if total > _LARGEST_MODEL:
        raise UsageError(f"an ONNX file holds at most 2 GB, this model takes {total} bytes; write .safetensors")
    onnx = require("onnx", "onnx")
    model = _parsed(onnx, info.attachments[MODEL], f"attachment {MODEL!r}")
    infos = {t.name: t for t in info.tensors}
    for proto in _all_tensors(model):
        if len(proto.external_data) != 1 or proto.external_data[0].key != _HOLE:
            continue
        name = proto.external_data[0].value
        found = infos.get(name)
        if found is None or found.shape != tuple(proto.dims) or found.dtype != _DTYPES.get(proto.data_type):
            raise MismatchError(f"tensor {name!r}: the graph needs shape {tuple(proto.dims)}, got {found}")
        proto.ClearField("external_data")
        proto.raw_data = tensor_bytes(checkpoint.read(name)).tobytes()
    file.write(model.SerializeToString(deterministic=True))


def _parse(onnx: Any, path: Path) -> Any:
    file_size(path)
    with open_input(path) as file:
        model = _parsed(onnx, file.read(), str(path))
    if not model.HasField("graph"):
        raise InputError(f"{path}: not an ONNX model, or one without a graph")
    return model


def _parsed(onnx: Any, data: bytes, where: str) -> Any:
    message = require("google.protobuf.message", "onnx")
    try:
        return onnx.ModelProto.FromString(data)
    except (message.DecodeError, RecursionError) as error:
        raise InputError(f"{where}: not an ONNX model, or damaged ({error})") from error


def _weights(model: Any) -> Iterator[tuple[str, Any]]:
    """(name, TensorProto) of each tensor to take out, in a fixed order; names are made unique."""
    seen: set[str] = set()
    for base, proto, is_constant in _tensors(model):
        if proto.data_type not in _DTYPES:
            continue
        if is_constant and byte_count(proto.dims, torch.uint8) < _LEAST_CONSTANT:
            continue
        name, count = base, 1
        while name in seen:
            count += 1
            name = f"{base}~{count}"
        seen.add(name)
        yield name, proto


def _all_tensors(model: Any) -> Iterator[Any]:
    return (proto for _, proto, _ in _tensors(model))


def _tensors(model: Any) -> Iterator[tuple[str, Any, bool]]:
    """(name, TensorProto, whether of a Constant node) of all graphs and functions."""
    yield from _graph_tensors(model.graph, "")
    for function in model.functions:
        yield from _node_tensors(function.node, f"{_text(function.name)}/")


def _graph_tensors(graph: Any, prefix: str) -> Iterator[tuple[str, Any, bool]]:
    for proto in graph.initializer:
        yield prefix + _text(proto.name), proto, False
    yield from _node_tensors(graph.node, prefix)


def _node_tensors(nodes: Any, prefix: str) -> Iterator[tuple[str, Any, bool]]:
    for node in nodes:
        label = _text(node.name or (node.output[0] if node.output else node.op_type))
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                yield prefix + _text(node.output[0] if node.output else node.name), attribute.t, True
            if attribute.HasField("g"):
                yield from _graph_tensors(attribute.g, f"{prefix}{label}/{_text(attribute.name)}/")
            for index, graph in enumerate(attribute.graphs):
                yield from _graph_tensors(graph, f"{prefix}{label}/{_text(attribute.name)}.{index}/")


def _text(value: Any) -> str:
    """`value`, which protobuf gives as bytes where a file holds text that is not UTF-8."""
    if not isinstance(value, str):
        raise InputError(f"the ONNX model holds the name {value!r}, which is not UTF-8; the file is damaged")
    return value
