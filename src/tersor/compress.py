"""One shot compression: the stages, in order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from tersor.allocation import Budget
from tersor.calibrated import DEFAULT_BITS, Evaluate, compress_calibrated
from tersor.calibration.samples import listed
from tersor.coding import CodingConfig
from tersor.container.writer import Summary, write_tsr
from tersor.entries import compressed_entries
from tersor.errors import UsageError
from tersor.interop import Checkpoint, from_state_dict, open_checkpoint
from tersor.matching import bytes_beside, float_numbers, left_for_tensors
from tersor.model import CompressedModel
from tersor.parallel import check_threads, thread_pool
from tersor.posttraining import Calibrate
from tersor.progress import Progress
from tersor.quantization import Quantize
from tersor.recipe import Recipe, Rule
from tersor.shrinking.holding import finalized
from tersor.structure.carried import attachments_of
from tersor.structure.stored import stored_manifest
from tersor.uncalibrated import compress_weights
from tersor.work import Work, identity_of


def compress(
    model: nn.Module | Mapping[str, Tensor] | str | os.PathLike[str],
    recipe: Recipe | None = None,
    *,
    bits: float | None = None,
    max_bytes: int | None = None,
    max_drop: float | None = None,
    lossless: bool = False,
    calibration: Iterable[Any] | None = None,
    evaluate: Evaluate | None = None,
    options: Calibrate | None = None,
    work: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
) -> CompressedModel:
    """Compresses a model in memory, or a checkpoint file or folder, into a CompressedModel in memory.

    Tensors that a checkpoint stores on a quantization grid of its own (GGUF) keep it as `compressed_entries` says.

    model: an nn.Module or a state_dict (neither is modified), or the path of any checkpoint that
        `tersor compress` reads. With `calibration` an nn.Module. What was removed from a shrunk network stays known.
    recipe, bits, lossless, max_bytes, max_drop: at most one of them. Without calibration, none of them is
        `Recipe.default()`: 8 bits for weights; `bits` is that with another width, 1 to 16, and `max_bytes` of the
        file is met by steps that follow the weights. With calibration, `bits` is the average of the whole file and
        may be a fraction; none of them is 4 bits.
    calibration: some hundred samples without labels, as batches: tensors (`model(batch)`), tuples or mappings.
    evaluate: a compressed copy of the model -> a metric, higher is better: what `max_drop` limits.
    options: how calibrated compression works.
    work: a folder that keeps what was found, so that the same call goes on after an interruption. What `evaluate` gave
        is kept, too: after a change of `evaluate` itself, name another folder.
    progress: called with (stage, done, total) while work that takes long goes on.
    threads: None for one a CPU. The result does not depend on it.
    Recipes that remove channels or blocks are for `tersor.prune`; here they take what that gave, and do the rest.
    Raises UsageError for contradicting options, patterns that match nothing or a budget that cannot be met, InputError
    for unreadable files, CalibrationError where samples do not fit the model, or `evaluate` fails.
    """
    check_threads(threads)
    if isinstance(model, nn.Module):
        model = finalized(model)
    if calibration is not None:
        if recipe is not None or lossless:
            raise UsageError("calibration excludes recipe and lossless: the budget sets every layer's precision")
        return _calibrated(
            model, calibration, Budget(max_bytes, bits, max_drop), evaluate, options, work, progress, threads
        )
    for name, value in (("max_drop", max_drop), ("evaluate", evaluate), ("work", work)):
        if value is not None:
            raise UsageError(f"{name} needs calibration: batches of samples for the model")
    if options is not None and max_bytes is None:
        raise UsageError("options needs calibration (batches of samples for the model) or max_bytes")
    if max_bytes is not None:
        if recipe is not None or lossless or bits is not None:
            raise UsageError("max_bytes excludes recipe, bits and lossless; give one of them")
        Budget(max_bytes=max_bytes)
        with _opened(model) as checkpoint:
            target = left_for_tensors(int(max_bytes), checkpoint)
            found = compress_weights(checkpoint, target, options, threads=threads, progress=progress)
            return _as_source(found, model, checkpoint)
    chosen = choose_recipe(recipe, bits=bits, lossless=lossless)
    with _opened(model) as checkpoint, thread_pool(threads) as executor:
        _check_removals(chosen, checkpoint)
        entries = tuple(compressed_entries(checkpoint, chosen, executor, progress))
        return _as_source(CompressedModel(entries), model, checkpoint)


def compress_file(
    source: str | os.PathLike[str],
    target: IO[bytes],
    recipe: Recipe | None = None,
    *,
    coding: CodingConfig | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[Summary, int]:
    """Compresses a checkpoint into an open binary file, tensor by tensor: memory stays near the largest tensor.

    Returns what was written, and the bytes of the source. progress: of tensors, in bytes, each by its name.
    """
    with open_checkpoint(source) as checkpoint, thread_pool(threads) as executor:
        chosen = recipe or Recipe.default()
        _check_removals(chosen, checkpoint)
        entries = compressed_entries(checkpoint, chosen, executor, progress)
        summary = write_tsr(
            target,
            entries,
            dict(checkpoint.info.attachments),
            source=checkpoint.info.format,
            coding=coding,
            executor=executor,
        )
        return summary, source_bytes(source, checkpoint)


def choose_recipe(recipe: Recipe | None, *, bits: float | None = None, lossless: bool = False) -> Recipe:
    """The one recipe that the options name. UsageError if they name several."""
    if recipe is not None and not isinstance(recipe, Recipe):
        raise UsageError(
            f"recipe must be a tersor.Recipe, got {type(recipe).__name__}; Recipe.load reads one from a file"
        )
    if sum((recipe is not None, bits is not None, lossless)) > 1:
        raise UsageError("recipe, bits and lossless exclude each other; give one of them")
    if lossless:
        return Recipe.lossless()
    if bits is not None:
        if bits != int(bits):
            raise UsageError(
                f"bits is {bits:g}; without calibration it must be a whole number, the width of each weight"
            )
        return Recipe([Rule("*", Quantize(bits=int(bits)))])
    return recipe or Recipe.default()


def source_bytes(model: nn.Module | Mapping[str, Tensor] | str | os.PathLike[str], checkpoint: Checkpoint) -> int:
    """Bytes before compression: of the file, of the folder's files that were taken, or of a model's tensors."""
    if checkpoint.file_bytes is not None:
        return checkpoint.file_bytes
    if isinstance(model, (str, os.PathLike)):
        return Path(model).stat().st_size
    return sum(info.nbytes for info in checkpoint.info.tensors if info.tied_to is None)


def _calibrated(
    model: nn.Module | Mapping[str, Tensor] | str | os.PathLike[str],
    calibration: Iterable[Any],
    budget: Budget,
    evaluate: Evaluate | None,
    options: Calibrate | None,
    work: str | os.PathLike[str] | None,
    progress: Progress | None,
    threads: int | None,
) -> CompressedModel:
    if not isinstance(model, nn.Module):
        raise UsageError(f"calibration runs the model, so that it must be an nn.Module; got {type(model).__name__}")
    options = options or Calibrate()
    samples = listed(calibration)
    found = None if work is None else Work(work, identity_of(model, samples, options))
    with _opened(model) as checkpoint:
        attachments = dict(checkpoint.info.attachments)
        beside = bytes_beside(checkpoint) if attachments else 0
        target = (Budget(bits=DEFAULT_BITS) if budget == Budget() else budget).target_bytes(float_numbers(checkpoint))
        if beside and target is not None:
            budget = Budget(max_bytes=left_for_tensors(target, checkpoint))
    compressed = compress_calibrated(
        model,
        samples,
        budget=None if budget == Budget() else budget,
        options=options,
        evaluate=evaluate,
        work=found,
        progress=progress,
        threads=threads,
    )
    curve = None if compressed.curve is None else compressed.curve.grown(beside)
    return replace(compressed, attachments=attachments, curve=curve)


def _check_removals(recipe: Recipe, checkpoint: Checkpoint) -> None:
    """UsageError where the recipe removes parts of the network, unless something was removed from it before."""
    if not recipe.removals:
        return
    attachments = checkpoint.info.attachments
    names = [info.name for info in checkpoint.info.tensors]
    if not stored_manifest(attachments, lambda name: attachments[name], names):
        raise UsageError(
            f"the rule for {recipe.removals[0].match!r} removes parts of the network, which needs the network itself: "
            "call pruned = tersor.prune(model, recipe, example_inputs=...), then compress pruned.model by the recipe"
        )


def _as_source(
    found: CompressedModel, model: nn.Module | Mapping[str, Tensor] | str | os.PathLike[str], checkpoint: Checkpoint
) -> CompressedModel:
    """`found`, with the kind and the attachments of the checkpoint that it came from."""
    info = checkpoint.info
    return replace(
        found,
        source=info.format,
        attachments=dict(info.attachments),
        original_bytes=source_bytes(model, checkpoint),
    )


def _opened(model: nn.Module | Mapping[str, Tensor] | str | os.PathLike[str]) -> Checkpoint:
    if isinstance(model, nn.Module):
        return from_state_dict(model.state_dict(keep_vars=True), attachments_of(model))
    if isinstance(model, Mapping):
        return from_state_dict(model, attachments_of(model))
    if isinstance(model, (str, os.PathLike)):
        return open_checkpoint(model)
    raise UsageError(f"expected an nn.Module, a state_dict or a path, got {type(model).__name__}")


def set_torch_threads(threads: int | None) -> None:
    """Lets torch use as many threads as tersor does. For programs that own their process, such as the CLI."""
    if threads is not None and threads > 0:  # `thread_pool` refuses the others
        torch.set_num_threads(min(threads, torch.get_num_threads()))
