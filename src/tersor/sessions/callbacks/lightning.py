"""A session inside the Trainer of Lightning."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tersor.errors import MissingExtraError, UsageError
from tersor.sessions.session import Session

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError as error:
        raise MissingExtraError("the callback for Lightning needs lightning; run: pip install lightning") from error


class SessionCallback(Callback):
    """Lets a Trainer train what a session compresses.

        class Module(LightningModule):
            def training_step(self, batch, index):
                return self.session.loss(task_loss(self.network, batch))

            def configure_optimizers(self):
                return self.session.optimizer

        trainer = Trainer(callbacks=[SessionCallback(session, "states")])

    Lightning cannot change a loss from outside, so that `training_step` calls `session.loss`. With gradients of n
    batches accumulated, it divides the loss by n, as penalties must be.
    folder: gets "session-STEP.pt" with each checkpoint. To go on, prepare alike, `session.load` that file, then
            `trainer.fit(..., ckpt_path=...)` the checkpoint.
    Raises UsageError, when training begins, unless there is one optimizer: the session's.
    """

    def __init__(self, session: Session, folder: str | os.PathLike[str] | None = None) -> None:
        self.session = session
        self.folder = None if folder is None else Path(folder)
        self._steps = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Looks at the optimizer, and where the steps begin."""
        own = self.session.optimizer
        given = [getattr(optimizer, "optimizer", optimizer) for optimizer in trainer.optimizers]
        if len(given) != 1 or (own is not None and given[0] is not own):
            raise UsageError("configure_optimizers must return one optimizer, the session's: session.optimizer")
        self._steps = trainer.global_step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Counts an optimizer step, if this batch ended one."""
        if trainer.global_step > self._steps:
            self._steps = trainer.global_step
            self.session.step()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Writes the session's state beside."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.session.save(self.folder / f"session-{trainer.global_step}.pt")
