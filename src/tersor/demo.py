"""`tersor demo`: a small network on real digits, made as small as it can be without a loss of accuracy.

Deep Compression (Han et al. 2016) in miniature: train, prune and fine-tune, cluster and train the centroids, code.
The data are the 1,797 handwritten digits that scikit-learn ships. Every choice is made on a validation split; the
test split is only reported on. Every size is that of a file on disk.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tersor.columns import table
from tersor.compress import compress
from tersor.errors import MissingExtraError
from tersor.files import check_output
from tersor.model import CompressedModel
from tersor.pruning import Prune, magnitude_mask
from tersor.quantization import Cast, Lossless, Palettize
from tersor.recipe import Recipe, Rule
from tersor.restore import load
from tersor.storage import save
from tersor.tensors import Codebook

# Part of each layer's weights that is left in the end: the first and the last layer are sensitive, the large one is
# not (Han et al. 2015, Learning both Weights and Connections, figure 6).
_DENSITIES = {"0.weight": 0.6, "2.weight": 0.3, "6.weight": 0.06, "9.weight": 0.4}
_ROUNDS = (0.4, 0.75, 1.0)  # how far towards them each round of pruning and fine-tuning goes
_BITS = 4  # 16 centroids a layer

Params = dict[str, Tensor]


@dataclass(frozen=True)
class Split:
    """images: float32 (N, 1, 8, 8) in 0..1. labels: int64 (N,)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Step:
    """One line of the table. accuracy: of the test split, in percent."""

    name: str
    file_bytes: int
    accuracy: float


def digits_network() -> nn.Module:
    """Two convolutions and two linear layers: 38,314 weights for 10 classes of 8x8 images."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(64, 10),
    )


def run_demo(
    output: str | os.PathLike[str], *, seed: int = 0, force: bool = False, show: Callable[[str], None] = print
) -> list[Step]:
    """Runs all steps, writes the smallest file to `output` and shows the table.

    Raises MissingExtraError if scikit-learn is missing, OutputError if `output` exists (unless `force`) or cannot be
    written.
    """
    start = time.perf_counter()
    check_output(output, force=force)  # before minutes of training, not after
    torch.set_num_threads(1)  # faster for a network this small, and the same result on every machine
    train, validation, test = load_digits(seed)
    torch.manual_seed(seed)
    model = digits_network()
    steps: list[Step] = []

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = [len(split.labels) for split in (train, validation, test)]
        show("training on {} images, choosing on {}, testing on {}".format(*sizes))
        params = fit(model, dict(model.named_parameters()), train, validation, epochs=60, rate=3e-3)
        torch.save(params, folder / "dense.pt")
        dense = os.path.getsize(folder / "dense.pt")
        steps.append(Step("trained, torch.save", dense, accuracy(model, params, test)))

        masks: dict[str, Tensor] = {}
        for part in _ROUNDS:
            masks = {key: magnitude_mask(params[key], density=final**part) for key, final in _DENSITIES.items()}
            params = fit(model, params, train, validation, epochs=30, rate=2e-3, masks=masks)
        pruned = compress(params, Recipe([Rule(key, Lossless(), Prune(density=d)) for key, d in _DENSITIES.items()]))
        steps.append(_saved("pruned and fine-tuned", pruned, folder, model, test, coder="raw"))

        rules = [Rule(key, Palettize(bits=_BITS), Prune(density=density)) for key, density in _DENSITIES.items()]
        biases = Rule(tuple(key for key in params if key not in _DENSITIES), Cast("float16"))
        clustered = train_centroids(model, compress(params, Recipe([*rules, biases])), train, validation)
        steps.append(_saved("clustered, centroids trained", clustered, folder, model, test, coder="raw"))

    size = save(clustered, output, force=force).after
    steps.append(Step("entropy coded", size, accuracy(model, load(output), test)))

    rows = [[s.name, f"{s.file_bytes:,}", f"{dense / s.file_bytes:.1f}x", f"{s.accuracy:.2f} %"] for s in steps]
    show(table(["step", "bytes on disk", "ratio", "test accuracy"], rows, right=(1, 2, 3)))
    show(f"\nwrote {output} ({size:,} bytes) in {time.perf_counter() - start:.0f} s; look at it with:")
    show(f"    tersor inspect {output}")
    return steps


def load_digits(seed: int) -> tuple[Split, Split, Split]:
    """Training (60 %), validation (20 %) and test split (20 %), shuffled by `seed`."""
    try:
        from sklearn.datasets import load_digits as sklearn_digits
    except ImportError as error:
        raise MissingExtraError("the demo needs scikit-learn; run: pip install 'tersor[demo]'") from error
    data = sklearn_digits()
    images = torch.tensor(data.images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    labels = torch.tensor(data.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    cuts = (int(0.6 * len(labels)), int(0.8 * len(labels)))
    parts = order.tensor_split(cuts)
    return tuple(Split(images[part], labels[part]) for part in parts)  # type: ignore[return-value]


def accuracy(model: nn.Module, params: Params, split: Split) -> float:
    """Percent of the split that the model classifies correctly with these parameters."""
    model.eval()
    with torch.no_grad():
        predicted = functional_call(model, params, (split.images,)).argmax(1)
    return 100 * float((predicted == split.labels).float().mean())


def loss(model: nn.Module, params: Params, split: Split) -> float:
    """Mean cross-entropy of the split, in nats."""
    model.eval()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(functional_call(model, params, (split.images,)), split.labels))


def fit(
    model: nn.Module,
    params: Params,
    train: Split,
    validation: Split,
    *,
    epochs: int,
    rate: float,
    masks: dict[str, Tensor] | None = None,
) -> Params:
    """Parameters after training, of the epoch that is best on the validation split.

    masks: bool tensors by name; what they drop stays zero throughout.
    """
    masks = masks or {}
    trained = {key: value.detach().clone().requires_grad_() for key, value in params.items()}

    def built() -> Params:
        return {key: value * masks[key] if key in masks else value for key, value in trained.items()}

    return _train(model, list(trained.values()), built, train, validation, epochs=epochs, rate=rate)


def train_centroids(model: nn.Module, clustered: CompressedModel, train: Split, validation: Split) -> CompressedModel:
    """The model with its centroids trained: each gets the sum of the gradients of the weights that share it
    (Han et al. 2016, equation 3), which is what indexing differentiates to. Assignments and masks stay."""
    tensors = {entry.name: entry.tensor for entry in clustered.entries}
    books = {key: value for key, value in tensors.items() if isinstance(value, Codebook)}
    centroids = {key: value.codebook.clone().requires_grad_() for key, value in books.items()}
    codes = {key: value.codes.long() for key, value in books.items()}
    masks = {key: torch.ones(()) if value.mask is None else value.mask for key, value in books.items()}
    fixed = {key: value for key, value in clustered.state_dict().items() if key not in books}

    def built() -> Params:
        return fixed | {key: centroids[key][0][codes[key]] * masks[key] for key in books}

    _train(model, list(centroids.values()), built, train, validation, epochs=25, rate=3e-4)
    new = {key: replace(book, codebook=centroids[key].detach().sort().values) for key, book in books.items()}
    order = {key: centroids[key].detach().argsort().argsort().to(torch.uint8) for key in books}
    for key, book in new.items():
        new[key] = replace(book, codes=order[key][0][codes[key]])
    return replace(clustered, entries=tuple(replace(e, tensor=new.get(e.name, e.tensor)) for e in clustered.entries))


def _train(
    model: nn.Module,
    leaves: list[Tensor],
    built: Callable[[], Params],
    train: Split,
    validation: Split,
    *,
    epochs: int,
    rate: float,
) -> Params:
    """Trains `leaves`, from which `built` makes the parameters; leaves them at, and returns, the best epoch."""
    optimizer = torch.optim.AdamW(leaves, lr=rate, weight_decay=1e-4)
    batches = -(-len(train.labels) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    best, kept = (-1.0, 0.0), [leaf.detach().clone() for leaf in leaves]
    for epoch in range(epochs + 1):
        score = (accuracy(model, built(), validation), -loss(model, built(), validation))
        if score > best:
            best, kept = score, [leaf.detach().clone() for leaf in leaves]
        if epoch == epochs:
            break
        model.train()
        for batch in torch.randperm(len(train.labels)).split(64):
            shift = torch.randint(-1, 2, (2,)).tolist()
            images = train.images[batch].roll(shift, (2, 3))
            optimizer.zero_grad()
            nn.functional.cross_entropy(functional_call(model, built(), (images,)), train.labels[batch]).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        for leaf, value in zip(leaves, kept, strict=True):
            leaf.copy_(value)
    return {key: value.detach().clone() for key, value in built().items()}


def _saved(name: str, model: CompressedModel, folder: Path, network: nn.Module, test: Split, *, coder: str) -> Step:
    """Saves, reloads and tests one stage."""
    path = folder / f"{name.split()[0].rstrip(',')}.tsr"
    sizes = save(model, path, coder=coder)
    return Step(name, sizes.after, accuracy(network, load(path), test))
