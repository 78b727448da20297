"""What `quantize_int8` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from tersor.columns import table
from tersor.container.writer import Entry
from tersor.entries import compressed_entries
from tersor.integers.plan import NAME, Plan
from tersor.interop import from_state_dict
from tersor.model import CompressedModel
from tersor.recipe import Recipe
from tersor.structure.carried import attachments_of
from tersor.tensors import Uniform


@dataclass(frozen=True, repr=False)
class Integers:
    """An integer network, and what it is made of.

    model:   an ordinary nn.Module in evaluation mode, that takes and gives what the float network did.
    plan:    which layers compute in integers, and how.
    weights: codes by the parameters' names.
    floats:  modules with weights that stay float, and why.
    state:   the float network's tensors beside them, batch norms folded and biases corrected.
    original_bytes: of the tensors of the network that was given.
    """

    model: nn.Module
    plan: Plan
    weights: Mapping[str, Uniform]
    floats: Mapping[str, str]
    state: Mapping[str, Tensor]
    original_bytes: int

    def __repr__(self) -> str:
        layers = len(self.plan.layers) + len(self.plan.recurrent)
        return f"Integers({layers} layers in int8, {len(self.floats)} modules with weights stay float)"

    def __str__(self) -> str:
        """A table of the layers, and what stays float."""
        rows = []
        for name, layer in self.plan.layers.items():
            grid = "dynamic" if layer.grid is None else f"{layer.grid.scale:.4g} (q - {layer.grid.zero})"
            limits = "" if layer.limits is None else f"{layer.limits[0]:g} to {layer.limits[1]:g}"
            shape = "x".join(map(str, self.weights[f"{name}.weight" if name else "weight"].shape))
            rows.append([name, shape, grid, limits, "float32" if layer.output is None else "int8"])
        rows += [[name, "LSTM", "dynamic", "", "float32"] for name in self.plan.recurrent]
        text = table(["layer", "weight", "inputs", "clamped", "outputs"], rows)
        floats = [[name, reason] for name, reason in self.floats.items()]
        return text + ("\n\n" + table(["stays float", "because"], floats) if floats else "")

    def compressed(self) -> CompressedModel:
        """For `tersor.save`: the same codes, and how to compute with them as an attachment (`load_int8` reads both).

        `tersor.load` gives float tensors of the original class from the same file.
        """
        # A float tensor that is tied to a weight (an embedding) keeps its own values.
        floats = {name: tensor for name, tensor in self.state.items() if name not in self.weights}
        others = {e.name: e for e in compressed_entries(from_state_dict(floats), Recipe.lossless())}
        entries = (others.get(name) or Entry(name, self.weights[name]) for name in self.state)
        attachments = {**attachments_of(self.model), NAME: self.plan.to_json().encode()}
        return CompressedModel(tuple(entries), "state_dict", attachments, self.original_bytes)
