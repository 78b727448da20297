"""Distillation on MNIST, as Hinton et al. 2015 (section 3) have it: students of 2 x 30 and 2 x 800 hidden units.

    TERSOR_DATA=... python -m examples.distillation [--short]

writes examples/results/distillation.json. Teachers are five networks of 2 x 1200 units, trained with some dropout and
on shifted digits; students see the digits as they are, without regularisation. Of each width: plain training; one
teacher at temperatures from 1 to 20, of which the validation images choose one; then the teacher and the ensemble of
five at that temperature. In the omitted-digit experiment the student never sees a 3; the bias of its 3 is then raised
by what the validation images ask for. The test images are read once, at the end; every student has the same steps and
seeds.

Budget: about 75 minutes of one core, 3 seeds. An interrupted run goes on. `--short` runs on scikit-learn's digits in
seconds and writes nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tersor
from benchmarks.journal import Journal
from benchmarks.machine import write_results
from benchmarks.mnist import digits, mnist
from benchmarks.training import Images, Plan, Split, rate_at, seeded, summary
from tersor.training.augment import shifted

OMITTED = 3
BIASES = tuple(x / 4 for x in range(61))
"""What the omitted digit's bias may be raised by."""
TEACHING, LEARNING = Plan(20, 1e-3), Plan(15, 1e-3)


@dataclass(frozen=True)
class Study:
    """Everything that decides the numbers.

    dropout: of the teachers' hidden units. The paper's, half of them and a fifth of the inputs, needs more epochs than
        20: such teachers were at 135 errors, and taught their students nothing.
    weight: of the soft targets; chosen beforehand, not tuned.
    """

    teacher: int = 1200
    teachers: int = 5
    dropout: float = 0.2
    widths: tuple[int, ...] = (30, 800)
    temperatures: tuple[float, ...] = (1.0, 2.5, 5.0, 10.0, 20.0)
    weight: float = 0.9
    teaching: Plan = TEACHING
    learning: Plan = LEARNING
    seeds: tuple[int, ...] = (0, 1, 2)


def network(width: int, dropout: float = 0.0) -> nn.Module:
    """784 - width - width - 10 units, rectified, that share of the hidden ones dropped out."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in (784, width):
        layers += [nn.Linear(inputs, width), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def learn(
    model: nn.Module,
    data: Images,
    plan: Plan,
    seed: int,
    distillation: tersor.Distillation | None = None,
    answers: tersor.Answers | None = None,
    jitter: bool = False,
) -> nn.Module:
    """Trains `model` in place by AdamW; answers are the teachers' to the images of `data`, in order."""
    images, labels = data
    optimizer = torch.optim.AdamW(model.parameters(), plan.rate, weight_decay=plan.decay, fused=True)
    steps = plan.steps(len(labels))
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step in range(steps):
            if len(order) < plan.batch:
                order = torch.randperm(len(labels), generator=generator)
            chosen, order = order[: plan.batch], order[plan.batch :]
            batch = shifted(images[chosen], generator) if jitter else images[chosen]
            outputs = model(batch)
            loss = F.cross_entropy(outputs, labels[chosen])
            if distillation is not None and answers is not None:
                loss = distillation(batch, outputs, loss, answers=answers[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = rate_at(plan, step, steps)
            optimizer.step()
    return model.eval()


@torch.inference_mode()
def errors(outputs: Tensor, labels: Tensor) -> int:
    """Wrong predictions."""
    return int((outputs.argmax(1) != labels).sum())


@torch.inference_mode()
def answered(model: nn.Module, images: Tensor) -> Tensor:
    """Logits of all images."""
    return torch.cat([model.eval()(batch) for batch in images.split(500)])


class Run:
    """One study on some data, arm by arm; what the journal holds is not trained again."""

    def __init__(self, study: Study, data: Split, journal: Journal) -> None:
        self.study, self.data, self.journal = study, data, journal
        self.teachers = [self._teacher(number) for number in range(study.teachers)]
        self.answers = tersor.cached_answers(self.teachers, list(data.train[0].split(500)))

    def _teacher(self, number: int) -> nn.Module:
        model = seeded(lambda: network(self.study.teacher, self.study.dropout), 100 + number)
        return self.journal.network(
            f"teacher {number}",
            model,
            lambda m: learn(m, self.data.train, self.study.teaching, 100 + number, jitter=True),
        ).eval()

    def student(self, width: int, seed: int, teachers: int, temperature: float, omit: bool = False) -> nn.Module:
        """A student of the first `teachers` teachers, 0 for plain training; `omit`: it never sees the digit."""
        study, (images, labels) = self.study, self.data.train
        kept = labels != OMITTED if omit else torch.ones_like(labels, dtype=torch.bool)
        model = seeded(lambda: network(width), seed)
        # Without the digit, labels would say that it never comes: the student then learns from the teachers alone.
        config = tersor.Distill(temperature=temperature, weight=1.0 if omit else study.weight)
        distillation = tersor.Distillation(model, self.teachers[:teachers], config) if teachers else None
        answers = tersor.Answers(
            tuple(output[kept] for output in self.answers.outputs[:teachers]), self.answers.samples
        )
        name = f"student {width} seed {seed} teachers {teachers} t {temperature} {'omitted' if omit else 'all'}"
        return self.journal.network(
            name, model, lambda m: learn(m, (images[kept], labels[kept]), study.learning, seed, distillation, answers)
        )

    def errors(self, model: nn.Module, part: Images) -> int:
        """Wrong predictions of a network on some images."""
        return errors(answered(model, part[0]), part[1])

    def sweep(self, width: int) -> dict[str, int]:
        """Validation errors of students of one teacher, first seed, by temperature."""
        seed = self.study.seeds[0]
        return {
            str(t): self.errors(self.student(width, seed, 1, t), self.data.validation) for t in self.study.temperatures
        }

    def width(self, width: int) -> dict[str, Any]:
        """Errors on validation and test images of plain and distilled students, over the seeds."""
        sweep = self.sweep(width)
        best = float(min(sweep, key=sweep.__getitem__))
        arms: dict[str, Any] = {}
        for arm, teachers in (("plain", 0), ("teacher", 1), ("ensemble", self.study.teachers)):
            models = [self.student(width, seed, teachers, best if teachers else 1.0) for seed in self.study.seeds]
            arms[arm] = {
                "validation": summary([self.errors(model, self.data.validation) for model in models]),
                "test": summary([self.errors(model, self.data.test) for model in models]),
            }
        gain = {a: arms["plain"]["test"]["mean"] - arms[a]["test"]["mean"] for a in ("teacher", "ensemble")}
        return {"width": width, "sweep": sweep, "temperature": best, "arms": arms, "gain": gain}

    def omitted(self, width: int, temperature: float) -> list[dict[str, Any]]:
        """Of each seed: test errors, and those on the omitted digit, of plain and distilled students that never saw it.

        "corrected": with the bias raised by what gives the fewest errors on the validation images.
        """
        found = []
        for seed in self.study.seeds:
            row: dict[str, Any] = {}
            for arm, teachers in (("plain", 0), ("distilled", 1)):
                model = self.student(width, seed, teachers, temperature, omit=True)
                valid, test = (answered(model, part[0]) for part in (self.data.validation, self.data.test))
                bias = min(BIASES, key=lambda b: errors(_raised(valid, b), self.data.validation[1]))
                row[arm] = {
                    "as trained": self._omitted_errors(test),
                    "corrected": self._omitted_errors(_raised(test, bias)),
                    "bias": bias,
                }
            found.append(row)
        return found

    def _omitted_errors(self, outputs: Tensor) -> dict[str, int]:
        labels = self.data.test[1]
        own = labels == OMITTED
        return {
            "test": errors(outputs, labels),
            "of the digit": errors(outputs[own], labels[own]),
            "there": int(own.sum()),
        }

    def result(self) -> dict[str, Any]:
        """All numbers."""
        test = self.data.test
        teachers = [self.errors(teacher, test) for teacher in self.teachers]
        mean = sum(answered(teacher, test[0]).softmax(1) for teacher in self.teachers)
        widths = [self.width(width) for width in self.study.widths]
        assert isinstance(mean, Tensor)
        return {
            "study": dataclasses.asdict(self.study),
            "test_images": len(test[1]),
            "teachers": {"test": summary(teachers), "ensemble": errors(mean, test[1])},
            "students": widths,
            "omitted": self.omitted(self.study.widths[-1], widths[-1]["temperature"]),
        }


def _raised(outputs: Tensor, bias: float) -> Tensor:
    return outputs + bias * F.one_hot(torch.tensor(OMITTED), outputs.shape[1])


def show(result: dict[str, Any]) -> None:
    """The tables."""
    teachers = result["teachers"]
    print(f"errors of {result['test_images']} test images, mean ± deviation over {len(result['study']['seeds'])} seeds")
    print(f"teachers {teachers['test']['mean']:.1f} ± {teachers['test']['std']:.1f}, together {teachers['ensemble']}")
    for row in result["students"]:
        arms = "  ".join(f"{a} {v['test']['mean']:.1f} ± {v['test']['std']:.1f}" for a, v in row["arms"].items())
        print(f"2 x {row['width']}, temperature {row['temperature']:g}: {arms}  (sweep {row['sweep']})")
    for number, row in enumerate(result["omitted"]):
        for arm, found in row.items():
            print(f"without {OMITTED}, seed {number}, {arm}: {found}")


def main(arguments: Sequence[str] = ()) -> dict[str, Any] | None:
    """Runs the study; None where MNIST is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the networks are too small for more
    data = digits() if options.short else mnist()
    if data is None:
        return None
    study = Study()
    if options.short:
        quick = Plan(4, 3e-3, 64)
        study = Study(64, 2, widths=(16,), temperatures=(1.0, 4.0), teaching=quick, learning=quick, seeds=(0,))
    journal = Journal("distillation", [dataclasses.asdict(study), time.time() if options.short else ""])
    result = Run(study, data, journal).result()
    show(result)
    if not options.short:
        write_results("distillation", result, "examples")
    return result


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
