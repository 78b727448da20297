"""Teachers' outputs for a fixed data set, kept on disk: a teacher then runs once, not in every epoch.

A file a teacher, "answers-KEY.safetensors", whose metadata say of which teacher and of which samples.

Legend: N samples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from tersor.calibration.guard import untouched
from tersor.calibration.objectives import main_output
from tersor.calibration.samples import batches, call, listed
from tersor.errors import CalibrationError, InputError, MismatchError, OutputError, UsageError
from tersor.files import atomic_file
from tersor.identity import add_model, add_value
from tersor.training.ensembles import as_teachers

_KEY = "tersor.answers"
_TENSOR = "outputs"
DTYPES = (torch.float32, torch.float16)


@dataclass(frozen=True)
class Answers:
    """outputs: of each teacher, float32 or float16 (N, ...) on the CPU. samples: a digest of what they are for."""

    outputs: tuple[Tensor, ...]
    samples: str

    def __len__(self) -> int:
        return len(self.outputs[0])

    def __getitem__(self, index: Any) -> list[Tensor]:
        """Of some samples, numbered through all batches: float32, one a teacher, as `Distillation` takes them."""
        return [output[index].float() for output in self.outputs]

    def check(self, samples: Iterable[Any]) -> None:
        """MismatchError unless these are the samples, in the same batches, that the answers are for."""
        if _digest_of_samples(listed(samples)) != self.samples:
            raise MismatchError("answers: they are for other samples, or for other batches of them")


def cached_answers(
    teachers: nn.Module | Sequence[nn.Module],
    samples: Iterable[Any],
    folder: str | PathLike[str] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Answers:
    """What teachers answer in evaluation mode, from `folder` as far as it is known there, else computed and put there.

    Keys are digests of the samples and of the teacher (its modules' classes and all its tensors, but not its code).

    teachers: not changed. samples: batches as `calibration.collect` takes them, in a fixed order; a batch's tensors
        have its samples in the first dimension, and so have the teachers' outputs.
    folder: made if it does not exist; None keeps nothing. dtype: float32, or float16 for half the bytes.
    Raises UsageError for bad arguments; CalibrationError where a teacher rejects a batch, or gives NaN or numbers too
    large for `dtype`; InputError for a file that is damaged, MismatchError for one of another teacher or other samples;
    OutputError where the folder cannot be made or written.
    """
    models = as_teachers("answers", teachers)
    if folder is not None and not isinstance(folder, (str, PathLike)):
        raise UsageError(f"answers: folder must be a path, or None, got {folder!r}")
    if dtype not in DTYPES:
        raise UsageError(f"answers: dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")
    given = listed(samples)
    digest = _digest_of_samples(given)
    outputs = []
    for number, model in enumerate(models):
        owner = {"teacher": _digest_of_teacher(model), "samples": digest, "dtype": str(dtype)}
        path = None if folder is None else Path(folder) / f"answers-{_key(owner)}.safetensors"
        if path is not None and path.exists():
            outputs.append(_load(path, owner, dtype))
            continue
        found = _computed(model, number, given, dtype, seed)
        if path is not None:
            _make_folder(path.parent)
            content = save({_TENSOR: found}, {_KEY: json.dumps(owner)})
            with atomic_file(path, force=True) as file:
                file.write(content)
        outputs.append(found)
    return Answers(tuple(outputs), digest)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: the folder of answers cannot be made ({error.strerror or error})") from error


def _computed(model: nn.Module, number: int, samples: list[Any], dtype: torch.dtype, seed: int) -> Tensor:
    found: list[Tensor] = []
    with torch.no_grad(), untouched(model, seed):
        for index, batch, size in batches(samples):
            output = main_output(call(model, batch, index))
            if output.dim() == 0 or len(output) != size or (found and output.shape[1:] != found[0].shape[1:]):
                raise CalibrationError(
                    f"batch {index}: teacher {number} gives an output of shape {tuple(output.shape)} for a batch of "
                    f"{size}; all samples must have answers of one shape"
                )
            kept = output.to("cpu", dtype)
            if not bool(torch.isfinite(kept).all()):
                raise CalibrationError(
                    f"batch {index}: the output of teacher {number} holds NaN or Inf as {dtype}; look at the samples"
                    + (", or take float32" if dtype == torch.float16 else "")
                )
            found.append(kept)
    return torch.cat(found)


def _load(path: Path, owner: dict[str, str], dtype: torch.dtype) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            of = json.loads((file.metadata() or {})[_KEY])
            outputs = file.get_tensor(_TENSOR)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is damaged, or holds no answers ({error}); delete it") from error
    if of != owner or outputs.dtype != dtype:
        wrong = [key for key in owner if not isinstance(of, dict) or of.get(key) != owner[key]] or ["dtype"]
        raise MismatchError(f"{path}: holds answers of other {' and '.join(wrong)}; delete it")
    return outputs


def _digest_of_teacher(model: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=16)
    add_model(digest, model)
    return digest.hexdigest()


def _digest_of_samples(samples: list[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    add_value(digest, samples)
    return digest.hexdigest()


def _key(owner: dict[str, str]) -> str:
    return hashlib.blake2b(json.dumps(owner, sort_keys=True).encode(), digest_size=12).hexdigest()
