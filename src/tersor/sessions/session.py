"""Session: compression inside a training loop."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersor.container.writer import file_bytes
from tersor.errors import DivergenceError, OutputError, ResumeError, UsageError, shortlist
from tersor.model import CompressedModel
from tersor.progress import Progress
from tersor.recipe import Recipe
from tersor.sessions import state as states
from tersor.sessions.arguments import as_path, check_positive, check_scalar
from tersor.sessions.attachments import (
    Simulated,
    attach,
    attach_quantizer,
    check_attached,
    detach_quantizer,
    grids_of,
    own_tensors,
)
from tersor.sessions.companion import Companion, check_companions, kinds
from tersor.sessions.copies import network_of
from tersor.sessions.finalizing import compressed_model, compressed_weights, make_ordinary
from tersor.sessions.foresight import check_later
from tersor.sessions.log import Log
from tersor.sessions.optimizers import OwnParameters, check_held, check_kind, check_optimizer, optimizer_state
from tersor.sessions.plan import Plan
from tersor.sessions.processes import gathered, rank
from tersor.sessions.pruning import Pruning
from tersor.sessions.restoring import unchanged_on_error
from tersor.sessions.statefile import plain, read_state, write_state
from tersor.sessions.teaching import Teaching
from tersor.sessions.unfinished import warn_unfinished, warn_unreached
from tersor.sessions.wrapping import unwrapped
from tersor.shrinking.weights import Data
from tersor.simulation import Clock
from tersor.simulation.affine import Affine
from tersor.structure.carried import manifest_of


@dataclass(frozen=True)
class Outward:
    """What a session tells of itself. log: lines of JSON. progress: needs `steps`. checkpoint: where the state goes
    when the loss is no number."""

    log: Log | None = None
    progress: Progress | None = None
    checkpoint: str | os.PathLike[str] | None = None


class Session:
    """Compression inside a loop of yours; `tersor.prepare` makes it.

        for batch in batches:
            optimizer.zero_grad()
            loss = session.loss(task_loss(model, batch))
            loss.backward(); optimizer.step(); session.step()
        tersor.save(session.finalize(), "model.tsr")

    model:     the network, changed in place: weights are pruned and simulated by parametrizations. Parameters stay
               the same objects. After `finalize` an ordinary module that holds exactly what the file holds.
    recipe:    what is done. steps: optimizer steps in all; None if unknown. done: optimizer steps so far.
    quantizers: of layers' inputs, by the layers' names; still there after `finalize`, which takes them off the layers.
    companions: what acts after each step (`accompany`).
    over:      whether `finalize` has ended it.

    Mutable: every step changes it.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        plan: Plan,
        data: Data,
        *,
        optimizer: Optimizer | None = None,
        distillation: Teaching | None = None,
        steps: int | None = None,
        outward: Outward | None = None,
    ) -> None:
        """For `prepare`, which checks the arguments."""
        self.model = model
        self.recipe = recipe
        self.steps = steps
        self.done = 0
        self.quantizers: dict[str, nn.Module] = {}
        self._plan = plan
        self._distillation = distillation
        self._outward = outward or Outward()
        self._network = unwrapped(model)
        self._simulated: list[Simulated] = []
        self.companions: list[Companion] = []
        self._losses: dict[str, Tensor] = {}
        self.over = False
        self._began = time.monotonic()
        self._pruning = Pruning(self._network, plan.tensors.values(), data)
        check_later(self._network, plan)
        self._own: OwnParameters | None = None
        if optimizer is not None:
            self.join(optimizer)
        self._attach_due()

    @property
    def optimizer(self) -> Optimizer | None:
        """The one given to `prepare`, or to `join`."""
        return None if self._own is None else self._own.optimizer

    def join(self, optimizer: Optimizer) -> None:
        """Gives the session its optimizer later than `prepare`: where parameters change in between, as with FSDP2.

        UsageError if it has one already, and as `prepare` for the optimizer; nothing has been changed then.
        """
        self._check_open()
        check_kind(optimizer)
        if self._own is not None:
            raise UsageError("the session has an optimizer already, and keeps it to its end; prepare with another one")
        check_held(optimizer, self.model)
        with unchanged_on_error((), optimizer, [self]):
            self._own = OwnParameters(optimizer, self._rates(optimizer))
            for part in self._simulated:
                self._own.add(part.simulation.parameters(), part.rate)
            for name, quantizer in self.quantizers.items():
                self._own.add(quantizer.parameters(), self._plan.activations[name].rate)
            if isinstance(self._distillation, nn.Module):
                self._own.add(self._distillation.parameters(), _rate_of(self._distillation, optimizer))

    def accompany(self, companion: Companion) -> None:
        """Lets it act after each step from now on; its state is kept with the session's."""
        self._check_open()
        self.companions.append(companion)

    def own_parameters(self) -> list[nn.Parameter]:
        """What simulations and quantizers have brought to train beside the network's own parameters."""
        parts = [*(part.simulation for part in self._simulated), *self.quantizers.values()]
        return [parameter for part in parts for parameter in part.parameters() if parameter.requires_grad]

    def density(self) -> float:
        """Share of the weights under masks that is kept now; 1 where nothing is pruned."""
        return self._pruning.density()

    def grids(self) -> dict[str, Affine]:
        """The grids of quantized inputs as they are now, by the layers' names: what `tersor.quantize_int8(grids=...)`
        takes. Also after `finalize`. Quantizers without a grid (`SignActivations`) are left out.

        CalibrationError, naming the layer, before the first training batch.
        """
        return grids_of(self.quantizers)

    def loss(
        self, task_loss: Tensor | None = None, *, inputs: Any = None, outputs: Any = None, parts: int = 1, **more: Any
    ) -> Tensor:
        """The loss to call `backward` of: the task's, what a teacher adds, and the penalties of the simulations.

        task_loss: a scalar; None where a teacher alone says what is right.
        inputs, outputs: what the network was called with, and gave; a teacher needs both.
        parts:     n where n losses are summed to a step's gradient, and `task_loss` is its share of the n already:
                   whatever else there is, the teacher's part and the penalties, is divided by n here, so that the sum
                   is the loss of one batch. 1 for loops that divide what this gives, or accumulate nothing.
        more:      goes to the distillation, which gets `task_loss` times n.
        Raises DivergenceError, with the step, where the loss is NaN or infinite: the state of then, from before the
        step, is at `checkpoint` if `prepare` was given one. UsageError without any loss, or after `finalize`.
        """
        self._check_open()
        check_positive("parts", parts)
        if task_loss is not None:
            check_scalar("the task's loss", task_loss)
        penalty = self._penalty()
        parted = {"task": task_loss, "penalty": None if penalty is None else penalty / parts}
        if self._distillation is not None:
            if inputs is None or outputs is None:
                raise UsageError("a teacher needs session.loss(task_loss, inputs=..., outputs=...) of the student")
            whole = None if task_loss is None else task_loss * parts
            taught = self._distillation(inputs, outputs, whole, **more)
            check_scalar("what the distillation gives", taught)
            total = parted["teacher"] = taught / parts
        elif task_loss is None or more:
            raise UsageError("loss: give the task's loss, and nothing for a teacher; there is none to learn from")
        else:
            total = task_loss
        if penalty is not None:
            total = total + penalty / parts
        parted["loss"] = total
        self._losses = {name: value.detach() for name, value in parted.items() if value is not None}
        if not bool(torch.isfinite(total.detach()).all()):
            self._diverged()
        return total

    def step(self) -> None:
        """Counts an optimizer step: call it after each `optimizer.step()`. Errors as `Gradual.step`, and of
        simulations that begin, which name the weight. UsageError where parts have parameters of their own to train,
        but the session has no optimizer; after `join` it goes on."""
        self._check_open()
        self._check_trained()
        check_attached(self._simulated)
        self.done += 1
        with torch.no_grad():
            for part in self._simulated:
                part.simulation.after_step(part.planned.stored, part.mask, self._clock(part))
        self._pruning.step()
        self._attach_due()
        for companion in self.companions:
            companion.step(self.done)
        self._tell()

    def finalize(self, model: nn.Module | None = None) -> CompressedModel:
        """The compressed network, for `tersor.save`; the session ends, and `model` is an ordinary module then.

        model: another network with the same parametrizations, such as an average (`AveragedModel`) or a copy of now, to
            be compressed, in place, instead of the session's own, which stays as it is, and so does the session.
        Quantizers of inputs are taken off: the file holds weights alone (`grids` has the rest).
        A TersorWarning names the rules whose schedules have not come to their end and what they keep, what has not
        begun, and quantizers that no batch has reached. Errors as `copies.network_of`; nothing has been changed then.
        """
        self._check_open()
        check_attached(self._simulated)
        network = self._network if model is None else network_of(model, self._network, self.quantizers)
        warn_unfinished(self.recipe, self._plan, self.done)
        if self.done:
            warn_unreached(self.quantizers)
        compressed = self._compressed(network)
        if network is self._network:
            self.over = True
            self._simulated = []
            if self._own is not None:
                self._own.close()
            for part in (self._outward.log, self._distillation):
                close = getattr(part, "close", None)
                if close is not None:
                    close()
        return compressed

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on bit by bit: network, masks, simulations, optimizer, schedules, random numbers.

        Plain types and tensors, which are not copied. What is the loop's own (schedulers of learning rates, the place
        in the data, gradient scalers) is not in it. Processes that train together must all call it.
        """
        self._check_open()
        return self._state(gathered(states.random_state()))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state_dict()`, in a session that was prepared alike: the same network, recipe, optimizer,
        teacher, and, where techniques train weights, `steps`.

        Random numbers are set last, so that whatever the loop draws next is what it would have drawn. ResumeError,
        saying what differs, for any other state; nothing has been changed then. Needs the memory of the network once
        more for that.
        """
        self._check_open()
        states.check_state(state, self.recipe)
        done, taught = state["done"], self._taught()
        with states.resume_errors():
            states.check_structure(state["structure"], manifest_of(self._network))
            check_companions(state["companions"]["kinds"], self.companions)
            late = [part.planned.name for part in self._simulated if part.begin > done]
            if late:
                raise ResumeError(
                    f"{late[0]} is simulated here already, but not in the state; load it into a new session"
                )
            states.check_teaching(state["distillation"], taught)
            states.check_tensors(own_tensors(state["model"]), own_tensors(self._network.state_dict()), "network")
            check_optimizer(state["optimizer"], self._own)
            if self.companions or any(part.training is not None for part in self._plan.tensors.values()):
                states.check_steps(state["steps"], self.steps)
        modules = [self._network] if taught is None else [self._network, taught]
        others = [self, self._own, self._pruning, *self._pruning.gradual, *self.companions]
        with unchanged_on_error(modules, self.optimizer, [other for other in others if other is not None], values=True):
            with states.resume_errors():
                self._take(state)
            if self._outward.log is not None and rank() == 0:
                self._outward.log.rewind(done)

    def save(self, path: str | os.PathLike[str], extra: Mapping[str, Any] | None = None) -> None:
        """Writes the state to a file, complete or not at all; `extra` goes with it: plain types (numpy's numbers become
        Python's), tensors, and lists and dictionaries of them. UsageError, naming the place, for anything else in it.
        """
        if extra is not None and not isinstance(extra, Mapping):
            raise UsageError(f"extra must be a dictionary, got {extra!r}")
        place = as_path("save: the state's file", path)
        try:
            added = plain(dict(extra or {}), "extra")
        except RecursionError as error:
            raise UsageError("extra is nested too deeply, or holds itself") from error
        state = {**self.state_dict(), "extra": added}
        if rank() == 0:
            write_state(state, place)

    def load(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Goes on from what `save` wrote, and gives its `extra`. InputError for other files and damaged ones, else as
        `load_state_dict`."""
        self._check_open()
        state = read_state(path)
        self.load_state_dict(state)
        return dict(state.get("extra") or {})

    def estimate_bytes(self) -> int:
        """The size of the `.tsr` file that the network would make now; the network stays as it is."""
        content = self._compressed(copy.deepcopy(self._network))
        return file_bytes(content.entries, attachments=content.attachments)

    def _state(self, random: list[dict[str, Any]]) -> dict[str, Any]:
        distillation = self._distillation
        return {
            "format": states.FORMAT,
            "recipe": states.recipe_text(self.recipe),
            "structure": manifest_of(self._network).to_json(),
            "steps": self.steps,
            "done": self.done,
            "model": dict(self._network.state_dict()),
            "optimizer": optimizer_state(self._own),
            "distillation": dict(distillation.state_dict()) if isinstance(distillation, nn.Module) else None,
            "pruning": self._pruning.state_dict(),
            "companions": {"kinds": kinds(self.companions), "states": [c.state_dict() for c in self.companions]},
            "random": random,
        }

    def _take(self, state: Mapping[str, Any]) -> None:
        """All of a state that was checked as far as it could be; what fails on the way leaves half of it."""
        self._attach_due(state["done"])
        self.done = state["done"]
        states.check_tensors(state["model"], self._network.state_dict(), "network")
        self._network.load_state_dict(state["model"])
        if self._own is not None:
            self._own.optimizer.load_state_dict(state["optimizer"]["state"])
        taught = self._taught()
        if taught is not None:
            taught.load_state_dict(state["distillation"])
        self._pruning.load_state_dict(state["pruning"])
        for companion, own in zip(self.companions, state["companions"]["states"], strict=True):
            companion.load_state_dict(own)
        states.set_random_state(state["random"][rank() % len(state["random"])])

    def _taught(self) -> nn.Module | None:
        """The distillation, where it is a module, whose parameters and state go with the session's."""
        return self._distillation if isinstance(self._distillation, nn.Module) else None

    def _compressed(self, network: nn.Module) -> CompressedModel:
        """Makes `network` ordinary, in place, and gives what its file holds."""
        weights = compressed_weights(network, self._plan)
        for name in self.quantizers:
            detach_quantizer(network.get_submodule(name))
        make_ordinary(network, weights, self._plan.names)
        return compressed_model(network, weights)

    def _rates(self, optimizer: Optimizer) -> list[float]:
        planned = [part.training.rate for part in self._plan.tensors.values() if part.training is not None]
        rates = [*planned, *(config.rate for config in self._plan.activations.values())]
        if isinstance(self._distillation, nn.Module):
            rates.append(_rate_of(self._distillation, optimizer))
        return rates

    def _attach_due(self, done: int | None = None) -> None:
        """Simulations and quantizers whose step has come, in the order of their steps."""
        now = self.done if done is None else done
        present = {part.planned.name for part in self._simulated}
        begins = {n: p.training.begin for n, p in self._plan.tensors.items() if p.training and n not in present}
        for name in sorted((name for name, begin in begins.items() if begin <= now), key=begins.__getitem__):
            part = attach(self._plan.tensors[name])
            self._simulated.append(part)
            self._adopt(part.simulation, part.rate)
        for name, config in self._plan.activations.items():
            if config.begin <= now and name not in self.quantizers:
                layer = self._network.get_submodule(name)
                self.quantizers[name] = attach_quantizer(layer, name, config)
                self._adopt(self.quantizers[name], config.rate)

    def _adopt(self, part: nn.Module, rate: float) -> None:
        if self._own is not None:
            self._own.add(part.parameters(), rate)

    def _clock(self, part: Simulated) -> Clock:
        return Clock(self.done - part.begin, None if self.steps is None else max(self.steps - part.begin, 0))

    def _penalty(self) -> Tensor | None:
        found = [part.simulation.penalty(part.planned.stored, self._clock(part)) for part in self._simulated]
        given = [penalty for penalty in found if penalty is not None]
        return None if not given else torch.stack([penalty.reshape(()) for penalty in given]).sum()

    def _diverged(self) -> None:
        kept = ""
        if self._outward.checkpoint is not None:
            # Not `save`: other processes may have a loss, and would be waited for in vain.
            state = self._state([states.random_state()])
            try:
                write_state(state, self._outward.checkpoint)
                kept = f"; the state before the step is in {self._outward.checkpoint}"
            except OutputError as error:
                kept = f"; the state before the step could not be kept: {error}"
        parts = ", ".join(f"{name} {float(value):g}" for name, value in self._losses.items())
        task, taught = self._losses.get("task"), self._losses.get("teacher")
        teacher = taught is not None and not bool(taught.isfinite()) and (task is None or bool(task.isfinite()))
        remedy = "Look at what the teacher gives for these inputs" if teacher else "Lower the learning rate"
        raise DivergenceError(
            f"step {self.done + 1}: the loss is not finite ({parts}){kept}. {remedy}, or check the data"
        )

    def _tell(self) -> None:
        log, progress = self._outward.log, self._outward.progress
        if progress is not None and self.steps is not None:
            progress("training", self.done, self.steps)
        if log is None or not log.due(self.done) or rank() != 0:
            return
        record: dict[str, Any] = {"step": self.done, "seconds": round(time.monotonic() - self._began, 3)}
        record |= {name: float(value) for name, value in self._losses.items()}
        record |= {"density": self.density(), "simulated": len(self._simulated)}
        if log.measures(self.done):
            record["bytes"] = self.estimate_bytes()
        log.write(record)

    def _check_trained(self) -> None:
        """UsageError, naming them, where parts have parameters to train, but there is no optimizer for them."""
        if self._own is not None:
            return
        parts: dict[str, nn.Module] = {part.planned.name: part.simulation for part in self._simulated}
        parts |= self.quantizers
        if isinstance(self._distillation, nn.Module):
            parts["distillation"] = self._distillation
        own = {name: part for name, part in parts.items() if any(p.requires_grad for p in part.parameters())}
        if own:
            shown = shortlist(f"{name} ({type(part).__name__})" for name, part in own.items())
            raise UsageError(
                f"nobody trains the parameters that come with {shown}: give tersor.prepare the optimizer, or call "
                "session.join(optimizer) before the first step"
            )

    def _check_open(self) -> None:
        if self.over:
            raise UsageError("the session is over: finalize() ended it; prepare the model again to go on")


def _rate_of(distillation: nn.Module, optimizer: Optimizer) -> float:
    """The learning rate of a distillation's own parameters: its `rate`, or the optimizer's."""
    return float(getattr(distillation, "rate", optimizer.defaults["lr"]))
