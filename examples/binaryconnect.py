"""BinaryConnect (Courbariaux et al. 2015, table 2) again: binary weights against none and dropout.

    TERSOR_DATA=... python -m examples.binaryconnect [--short] [mnist] [cifar10] [svhn]

writes examples/results/binaryconnect.json. Arms: no regularisation, dropout (half of the hidden units), BinaryConnect
with deterministic and with stochastic signs. All have batch norms, the squared hinge loss and Adam, as in the paper;
training images are not augmented. All weights are binary, first and last layer included; they take 1 bit each and a
scale a layer in the file. The stochastic arm is tested with its signs, as the others are, because the file holds these;
its batch norms get the moments that they see with them. The paper tests it with the real weights: that error is "real".

mnist:   3 x 1024 hidden units; 6 epochs, 3 seeds.
cifar10: the paper's VGG-like network at 3/16 of its width; 3 epochs, 1 seed.
svhn:    the same network on `svhn/train_32x32.mat` and `test_32x32.mat` in TERSOR_DATA; 3 epochs, 1 seed.

Each arm's learning rate is chosen on validation images by short runs of seed 0; the test images are looked at once.
Budget, one core: mnist 40 minutes, cifar10 40, svhn 60. States are kept after each epoch below `TERSOR_WORK`; an
interrupted run goes on. `--short` runs on scikit-learn's digits in seconds and writes nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.journal import Journal, work_folder
from benchmarks.machine import write_results
from benchmarks.mnist import digits, mnist
from benchmarks.sources import cifar10_test, cifar10_train, data_file
from benchmarks.training import Plan, Split, accuracy, divided, seeded, summary
from examples.loop import file_bytes, settle_batch_norms, train
from examples.svhn import svhn
from tersor.quantization import Binarize
from tersor.recipe import Rule
from tersor.simulation import BinaryConnect

ARMS = ("none", "dropout", "deterministic", "stochastic")
RATES = (1e-3, 3e-3)
TRIAL = 0.25
"""Share of the epochs of the runs that choose a learning rate."""


@dataclass(frozen=True)
class Setting:
    """build: makes the network, with dropout of its hidden units if told so."""

    build: Callable[[bool], nn.Module]
    plan: Plan
    seeds: tuple[int, ...]


def perceptron(dropout: bool, hidden: int = 1024, inputs: int = 784) -> nn.Module:
    """3 hidden layers. Images (N, 1, 28, 28) -> (N, 10)."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width in (hidden, hidden, hidden):
        layers += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        layers += [nn.Dropout(0.5)] if dropout else []
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 10, bias=False), nn.BatchNorm1d(10))


def vgg_like(dropout: bool, width: int = 24) -> nn.Module:
    """(2 x w C3) - P2 - (2 x 2w C3) - P2 - (2 x 4w C3) - P2 - (2 x 8w) - 10; w = 128 in the paper. (N, 3, 32, 32)."""
    layers: list[nn.Module] = []
    channels = 3
    for factor in (1, 2, 4):
        for last in (False, True):
            outputs = width * factor
            layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False)]
            layers += [nn.MaxPool2d(2)] if last else []
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
            channels = outputs
    layers.append(nn.Flatten())
    inputs = channels * 16
    for _ in range(2):
        layers += [nn.Linear(inputs, 8 * width, bias=False), nn.BatchNorm1d(8 * width), nn.ReLU()]
        layers += [nn.Dropout(0.5)] if dropout else []
        inputs = 8 * width
    return nn.Sequential(*layers, nn.Linear(inputs, 10, bias=False), nn.BatchNorm1d(10))


def squared_hinge(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean of max(0, 1 - t y)^2, t = +1 for the label's output y and -1 for the others: the loss of an L2-SVM."""
    targets = 2 * F.one_hot(labels, outputs.shape[1]).to(outputs.dtype) - 1
    return (1 - targets * outputs).clamp(min=0).square().mean()


def rules(arm: str) -> list[Rule]:
    """What is done to the weights: nothing, or binary ones."""
    if arm in ("none", "dropout"):
        return []
    return [Rule("*.weight", Binarize("tensor"), train=BinaryConnect(stochastic=arm == "stochastic"))]


def run_arm(
    setting: Setting, data: Split, arm: str, plan: Plan, seed: int, state: Path | None, final: bool
) -> dict[str, float]:
    """Validation error in percent; with `final` the test error and the size of the file, too."""
    model = seeded(lambda: setting.build(arm == "dropout"), seed)
    real = setting.build(False)

    def ending(model: nn.Module) -> None:
        real.load_state_dict(stored_weights(model))

    stochastic = arm == "stochastic"
    compressed = train(
        model,
        rules(arm),
        data.train,
        plan,
        seed,
        loss=squared_hinge,
        state=state,
        settle=stochastic,
        ending=ending if stochastic else None,
    )
    found = {"validation": 100 - accuracy(model, data.validation)}
    if final:
        found |= {"test": 100 - accuracy(model, data.test), "bytes": file_bytes(compressed)}
        if stochastic:
            settle_batch_norms(real, data.train[0], plan.batch)
            found["real"] = 100 - accuracy(real, data.test)
        found["weights"] = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    return found


def stored_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state_dict that `model` would have without its simulations: the real weights that the optimizer moved."""
    part = ".parametrizations.weight."
    state = {name.replace(f"{part}original", ".weight"): tensor for name, tensor in model.state_dict().items()}
    return {name: tensor for name, tensor in state.items() if part not in name}


def run(name: str, setting: Setting, data: Split, keep: bool = True) -> dict[str, Any]:
    """All arms. keep: states and results of arms are kept, and taken up."""
    plan = [dataclasses.asdict(setting.plan), setting.seeds, RATES, TRIAL, len(data.train[1])]
    journal = Journal(f"binaryconnect-{name}", plan) if keep else None
    folder = work_folder(f"binaryconnect-{name}-states", plan) if keep else None

    def once(key: str, work: Callable[[Path | None], dict[str, float]]) -> dict[str, float]:
        state = None if folder is None else folder / f"{key}.state"
        return work(state) if journal is None else journal.once(key, lambda: work(state))

    table = {}
    for arm in ARMS:
        trials = {}
        for rate in RATES:
            trial = replace(setting.plan, rate=rate, epochs=setting.plan.epochs * TRIAL)
            trials[rate] = once(
                f"{arm} {rate:g} trial", lambda s, a=arm, t=trial: run_arm(setting, data, a, t, 0, s, False)
            )["validation"]
        best = replace(setting.plan, rate=min(trials, key=trials.__getitem__))
        runs = [
            once(f"{arm} seed {seed}", lambda s, a=arm, b=best, n=seed: run_arm(setting, data, a, b, n, s, True))
            for seed in setting.seeds
        ]
        measures = [name for name in ("validation", "test", "real", "bytes") if name in runs[0]]
        table[arm] = {
            "rate": best.rate,
            "trials": {f"{rate:g}": error for rate, error in trials.items()},
            **{measure: summary([found[measure] for found in runs]) for measure in measures},
            "bits_a_weight": 8 * runs[0]["bytes"] / runs[0]["weights"],
        }
        errors = table[arm]["test"]
        print(f"{name} {arm}: {errors['mean']:.2f} +- {errors['std']:.2f} %, {runs[0]['bytes']:.0f} bytes", flush=True)
    return {"plan": dataclasses.asdict(setting.plan), "seeds": list(setting.seeds), "arms": table}


SETTINGS = {
    "mnist": Setting(perceptron, Plan(6, 1e-3, 200), (0, 1, 2)),
    "cifar10": Setting(vgg_like, Plan(3, 1e-3, 100), (0,)),
    "svhn": Setting(vgg_like, Plan(3, 1e-3, 100), (0,)),
}


def load(name: str) -> Split | None:
    """The data of a setting; None where they are missing."""
    if name == "mnist":
        return mnist()
    if name == "cifar10":
        test = cifar10_test()
        return None if test is None else Split(*divided(cifar10_train(range(50_000)), 2_000), test)
    parts = [data_file(f"svhn/{part}_32x32.mat") for part in ("train", "test")]
    if None in parts:
        return None
    train_part, test_part = (svhn(part) for part in parts)
    return Split(*divided(train_part, 5_000), test_part)


def short() -> dict[str, Any]:
    """The same on scikit-learn's digits with 3 x 64 hidden units: it proves no number."""
    setting = Setting(lambda dropout: perceptron(dropout, 64), Plan(6, 3e-3, 100), (0,))
    return run("digits", setting, digits(), keep=False)


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[[], *SETTINGS], help="all that there are data for by default")
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.short:
        short()
        return
    path = Path(__file__).parent / "results" / "binaryconnect.json"
    results = json.loads(path.read_text())["settings"] if path.exists() else {}
    for name in options.parts or SETTINGS:
        data = load(name)
        if data is not None:
            results[name] = run(name, SETTINGS[name], data)
            write_results("binaryconnect", {"settings": results}, "examples")


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
