"""Statistics in a safetensors file: no pickle, complete or absent.

Tensors are "<index>.moment", "<index>.count", "<index>.input_sum" and, if collected, "<index>.gradient"; the metadata's
"tersor.statistics" is a JSON list of the layers, by index.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from os import PathLike
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Size, Tensor

from tersor.calibration.layout import Layout
from tersor.calibration.statistics import LayerStatistics
from tersor.errors import InputError, MismatchError
from tersor.files import atomic_file

_KEY = "tersor.statistics"


def save_statistics(
    statistics: Mapping[str, LayerStatistics], path: str | PathLike[str], *, force: bool = False
) -> None:
    """Writes the statistics of a model's weights. Raises OutputError as `atomic_file`."""
    tensors: dict[str, Tensor] = {}
    layers = []
    for index, (name, layer) in enumerate(statistics.items()):
        layout = dataclasses.asdict(layer.layout)
        layers.append({"name": name, "shape": list(layer.shape), "layout": layout, "samples": layer.samples})
        for part in ("count", "moment", "input_sum", "gradient"):
            value = getattr(layer, part)
            if value is not None:
                tensors[f"{index}.{part}"] = value.contiguous()
    content = save(tensors, {_KEY: json.dumps(layers)})
    with atomic_file(path, force=force) as file:
        file.write(content)


def load_statistics(path: str | PathLike[str]) -> dict[str, LayerStatistics]:
    """The inverse of `save_statistics`. InputError if the file is missing, damaged, or of another kind."""
    try:
        with safe_open(path, framework="pt") as file:
            layers = json.loads((file.metadata() or {})[_KEY])
            present = set(file.keys())
            return {str(layer["name"]): _layer(file, index, layer, present) for index, layer in enumerate(layers)}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, MismatchError) as error:
        raise InputError(f"{path}: is damaged, or does not hold calibration statistics ({error})") from error


def _layer(file: Any, index: int, layer: Mapping[str, Any], present: set[str]) -> LayerStatistics:
    layout = Layout(**{key: type(getattr(Layout(), key))(value) for key, value in layer["layout"].items()})
    gradient = f"{index}.gradient"
    if layout.groups < 1 or len(layer["shape"]) < 2:
        raise ValueError(f"layer {index} has no groups or is no matrix")
    return LayerStatistics(
        Size(layer["shape"]),
        layout,
        int(layer["samples"]),
        file.get_tensor(f"{index}.count"),
        file.get_tensor(f"{index}.moment"),
        file.get_tensor(f"{index}.input_sum"),
        file.get_tensor(gradient) if gradient in present else None,
    )
