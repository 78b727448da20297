"""The graph of a network: what it computes for example inputs, operation by operation."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from tersor.calibration.guard import untouched
from tersor.errors import CalibrationError, TersorError, UsageError


class TraceError(TersorError):
    """A network cannot be followed: its program depends on values, or uses what torch cannot record."""


@dataclass(frozen=True)
class Trace:
    """What a network computes, as a graph of aten operations.

    graph:      its nodes; `meta["val"]` holds shapes, placeholders stand for parameters, buffers and inputs.
    tensors:    placeholder -> the model's own tensor, for parameters, buffers and constants.
    names:      placeholder -> the names that tensor has in the state_dict; constants and buffers that are not
                saved have none.
    inputs:     placeholder for each leaf of (args, kwargs), in order.
    in_spec, out_spec: how arguments and results are nested.
    args, kwargs: what it was traced with.
    """

    graph: fx.GraphModule
    tensors: Mapping[str, Tensor]
    names: Mapping[str, tuple[str, ...]]
    inputs: tuple[str, ...]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def trace(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> Trace:
    """The graph of `model(*args, **kwargs)` in evaluation mode; the model stays as it was.

    By torch.export without decompositions; where that fails by tracing the calls that torch dispatches. Raises
    CalibrationError where the model does not run on these inputs and TraceError where neither way works.
    """
    kwargs = dict(kwargs or {})
    with _as_it_was(model), torch.no_grad():
        try:
            model(*args, **kwargs)
        except Exception as error:
            raise CalibrationError(
                f"the example inputs do not run: the model raised {type(error).__name__}: {error}; "
                "give inputs as the model's forward takes them"
            ) from error
        try:
            return replace(_exported(model, args, kwargs), args=args, kwargs=kwargs)
        except Exception as first:  # noqa: BLE001 - torch raises errors of many kinds here, RuntimeError among them
            try:
                return replace(_dispatched(model, args, kwargs), args=args, kwargs=kwargs)
            except Exception as second:
                raise TraceError(
                    f"the network cannot be traced. torch.export: {_brief(first)}. Dispatch: {_brief(second)}. "
                    "Take what depends on values out of forward, or trace the part that does not"
                ) from second


def _exported(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trace:
    program = torch.export.export(model, args, kwargs, strict=False)
    signature = program.graph_signature
    named = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    tensors: dict[str, Tensor] = {}
    inputs = []
    for spec in signature.input_specs:
        name = spec.arg.name
        if spec.kind.name == "USER_INPUT":
            inputs.append(name)
        elif spec.target in named:
            tensors[name] = named[str(spec.target)]
        elif spec.target in program.constants:
            tensors[name] = program.constants[str(spec.target)]
        else:
            raise TraceError(f"an input of an unknown kind: {spec}")
    graph = _clean(program.graph_module)
    return Trace(graph, tensors, _names(model, tensors), tuple(inputs), program.call_spec.in_spec, _out_spec(program))


def _out_spec(program: torch.export.ExportedProgram) -> pytree.TreeSpec:
    assert program.call_spec.out_spec is not None
    return program.call_spec.out_spec


def _dispatched(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trace:
    """Tracing of what torch dispatches, before autograd; modules' names are not known then."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    leaves, in_spec = pytree.tree_flatten((args, kwargs))
    found: dict[str, Any] = {}

    def flat(*values: Any) -> list[Any]:
        state, given = dict(zip(tensors, values, strict=False)), list(values[len(tensors) :])
        arguments, named = pytree.tree_unflatten(given, in_spec)
        out, found["spec"] = pytree.tree_flatten(torch.func.functional_call(model, state, arguments, named))
        return out

    graph = make_fx(flat, pre_dispatch=True, tracing_mode="fake", _allow_non_fake_inputs=True)(
        *tensors.values(), *leaves
    )
    placeholders = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
    own = dict(zip(placeholders, tensors.values(), strict=False))
    for node in graph.graph.nodes:
        if node.op == "get_attr" and isinstance(getattr(graph, str(node.target), None), Tensor):
            node.meta["val"] = getattr(graph, str(node.target))
    inputs = tuple(placeholders[len(own) :])
    return Trace(_clean(graph), own, _names(model, own), inputs, in_spec, found["spec"])


def _names(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """By identity: a tied tensor has several names. `state_dict` knows which buffers are saved."""
    saved = model.state_dict(keep_vars=True)
    names: dict[int, list[str]] = {}
    for name, value in saved.items():
        names.setdefault(id(value), []).append(name)
    return {placeholder: tuple(names.get(id(value), ())) for placeholder, value in tensors.items()}


_IGNORED = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range")


def _clean(module: fx.GraphModule) -> fx.GraphModule:
    """Regions without gradients or autocast become part of the graph; checks and dead operations leave it."""
    for node in list(module.graph.nodes):
        name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
        if name in ("wrap_with_set_grad_enabled", "wrap_with_autocast"):
            _inline(module, node)
        elif name in _IGNORED or name in ("_set_grad_enabled", "_enter_autocast", "_exit_autocast"):
            node.replace_all_uses_with(None)
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _inline(module: fx.GraphModule, node: fx.Node) -> None:
    """Puts the graph that the node calls in its place. Its results are a tuple, read by getitem nodes."""
    at = next(i for i, arg in enumerate(node.args) if isinstance(arg, fx.Node) and arg.op == "get_attr")
    called = node.args[at]
    assert isinstance(called, fx.Node)
    inner = _clean(module.get_submodule(str(called.target)))  # type: ignore[arg-type]
    placeholders = [n for n in inner.graph.nodes if n.op == "placeholder"]
    values = dict(zip(placeholders, node.args[at + 1 :], strict=True))
    with module.graph.inserting_before(node):
        results = module.graph.graph_copy(inner.graph, values)  # type: ignore[arg-type]
    for user in list(node.users):
        user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index, arg-type]
        module.graph.erase_node(user)
    module.graph.erase_node(node)


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """As `untouched`; and attributes that tracing replaces are what they were."""
    flat = [(m, list(m._flat_weights)) for m in model.modules() if isinstance(m, nn.RNNBase)]
    with untouched(model, 0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for module, weights in flat:
                module._flat_weights = weights


def arguments(found: Trace, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> list[Any]:
    """The leaves of the arguments in the order of `inputs`. UsageError where they are nested otherwise."""
    leaves, spec = pytree.tree_flatten((args, dict(kwargs or {})))
    if spec != found.in_spec:
        raise UsageError(f"the inputs are nested as {spec}, those of the trace as {found.in_spec}")
    return leaves


def module_path(node: fx.Node) -> str:
    """The module that ran the operation, as named_modules() calls it; "the network" for the outermost."""
    stack = node.meta.get("nn_module_stack")
    path = list(stack.values())[-1][0] if stack else ""
    return path or "the network"


def _brief(error: Exception) -> str:
    """Its first lines, short enough for a message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])[:300]}"
