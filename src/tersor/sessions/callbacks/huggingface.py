"""A session inside the Trainer of Hugging Face transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from tersor.errors import MissingExtraError, UsageError
from tersor.sessions.session import Session
from tersor.sessions.wrapping import unwrapped

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingExtraError(
        "the callback for Hugging Face's Trainer needs transformers; run: pip install transformers"
    ) from error

FILE = "tersor_session.pt"
"""The session's state, in each checkpoint's folder."""


class SessionCallback(TrainerCallback):
    """Lets a Trainer train what a session compresses.

        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        session = tersor.prepare(model, recipe, optimizer=optimizer)
        trainer = Trainer(model, args, ..., optimizers=(optimizer, None), callbacks=[SessionCallback(session)])
        trainer.train()
        tersor.save(session.finalize(), "model.tsr")

    The loss that the model itself gives in training mode becomes `session.loss` of it; losses that are computed
    elsewhere (`compute_loss_func`, label smoothing) must call `session.loss` themselves. Each checkpoint gets the
    session's state: to go on, prepare alike, `session.load(folder / FILE)`, then
    `trainer.train(resume_from_checkpoint=folder)`.
    Raises UsageError, when training begins, where the Trainer has another optimizer than the session.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._parts = 1
        self._hook: RemovableHandle | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **more: Any) -> None:
        """Takes the model's losses."""
        own = self.session.optimizer
        if own is not None and getattr(optimizer, "optimizer", optimizer) is not own:
            raise UsageError("the Trainer must use the session's optimizer: Trainer(..., optimizers=(optimizer, None))")
        self._leave()  # a training that was broken off has not ended
        self._parts = args.gradient_accumulation_steps
        network = unwrapped(self.session.model)
        self._hook = network.register_forward_hook(self._add, with_kwargs=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Counts an optimizer step."""
        self.session.step()

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Puts the session's state into the checkpoint that was just written."""
        self.session.save(Path(args.output_dir) / f"checkpoint-{state.global_step}" / FILE)

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Leaves the model's losses alone."""
        self._leave()

    def _leave(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _add(self, model: nn.Module, args: Any, inputs: dict[str, Any], output: Any) -> Any:
        """The forward hook: the output, with the session's loss in it."""
        if self.session.over:
            self._leave()
            return output
        if not model.training or not isinstance(output, dict) or output.get("loss") is None:
            return output
        # A model that is told how many items a whole step has gives its part of the step's loss.
        parts = self._parts if inputs.get("num_items_in_batch") is not None else 1
        plain = {name: value for name, value in inputs.items() if name not in ("labels", "num_items_in_batch")}
        output["loss"] = self.session.loss(output["loss"], inputs=plain or args, outputs=output, parts=parts)
        return output
