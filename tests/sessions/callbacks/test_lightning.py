"""A session in Lightning's Trainer, with a tiny network; hooks in their documented order where it is not installed."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

import tersor
from tersor import Quantize, Rule
from tersor.errors import MissingExtraError, UsageError
from tests.sessions.toys import Round, X, Y, adam, build

RULE = Rule("*", Quantize(bits=4), train=Round(begin=1))
CALLBACK = "tersor.sessions.callbacks.lightning"


@pytest.fixture
def trained(tmp_path):
    """(folder, steps, folder to go on from, whether to give another optimizer) -> a session, trained in Lightning."""
    library = pytest.importorskip("lightning.pytorch")
    from tersor.sessions.callbacks.lightning import SessionCallback

    def run(folder, steps, resume=None, stranger=False):
        model = build()
        session = tersor.prepare(model, RULE, optimizer=adam(model))
        folder = tmp_path / folder

        class Module(library.LightningModule):
            def __init__(self):
                super().__init__()
                self.network = model

            def training_step(self, batch, index):
                return session.loss((self.network(batch[0]) - batch[1]).square().mean())

            def configure_optimizers(self):
                return adam(model) if stranger else session.optimizer

        if resume is not None:
            session.load(resume / "session-2.pt")
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        keeping = library.callbacks.ModelCheckpoint(folder, "{step}", every_n_train_steps=2, save_top_k=-1)
        callbacks = [SessionCallback(session, folder), keeping]
        trainer = library.Trainer(max_steps=steps, accumulate_grad_batches=2, callbacks=callbacks, **quiet)
        batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=4)
        trainer.fit(Module(), batches, ckpt_path=None if resume is None else resume / "step=2.ckpt")
        return session

    return run


def test_trained_saved_and_resumed(trained, tmp_path):
    session, again = trained("whole", 4), trained("again", 4, resume=tmp_path / "whole")
    assert session.done == again.done == 4
    for name, value in session.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    model = session.model
    session.finalize()
    assert all(len(parameter.unique()) <= 16 for parameter in model.parameters())


def test_another_optimizer_is_refused(trained):
    with pytest.raises(UsageError, match=r"session\.optimizer"):
        trained("none", 1, stranger=True)


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def callback(request, monkeypatch):
    """The callback's class, made with a stub of the `Callback` of either package; the other one is not there."""
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    package = ModuleType(request.param)
    package.Callback = type("Callback", (), {})
    monkeypatch.setitem(sys.modules, "lightning", ModuleType("lightning"))
    monkeypatch.setitem(sys.modules, request.param, package)
    monkeypatch.delitem(sys.modules, CALLBACK, raising=False)
    from tersor.sessions.callbacks.lightning import SessionCallback

    assert issubclass(SessionCallback, package.Callback)
    yield SessionCallback
    sys.modules.pop(CALLBACK, None)


def fit(session, callback, batches, accumulate):
    """What `Trainer.fit` does: on_train_start, then for each batch the step, on_train_batch_end, and checkpoints."""
    trainer = SimpleNamespace(global_step=session.done, optimizers=[session.optimizer])
    callback.on_train_start(trainer, None)
    for index in range(batches):
        loss = session.loss((session.model(X) - Y).square().mean()) / accumulate
        loss.backward()
        if (index + 1) % accumulate == 0:
            session.optimizer.step()
            session.optimizer.zero_grad()
            trainer.global_step += 1
        callback.on_train_batch_end(trainer, None, {"loss": loss.detach()}, X, index)
    callback.on_save_checkpoint(trainer, None, {})


def test_optimizer_steps_are_counted_and_states_kept(callback, tmp_path):
    model = build()
    session = tersor.prepare(model, RULE, optimizer=adam(model))
    fit(session, callback(session, tmp_path / "states"), 6, accumulate=2)
    assert session.done == 3
    model = build()
    again = tersor.prepare(model, RULE, optimizer=adam(model))
    again.load(tmp_path / "states" / "session-3.pt")
    assert again.done == 3
    fit(again, callback(again), 2, accumulate=1)
    assert again.done == 5


def test_the_optimizer_must_be_the_sessions(callback):
    model = build()
    session = tersor.prepare(model, RULE, optimizer=adam(model))
    for optimizers in ([adam(model)], [session.optimizer, adam(model)], []):
        with pytest.raises(UsageError, match=r"session\.optimizer"):
            callback(session).on_train_start(SimpleNamespace(global_step=0, optimizers=optimizers), None)


def test_without_lightning(monkeypatch):
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, CALLBACK, raising=False)
    with pytest.raises(MissingExtraError, match="pip install lightning"):
        import tersor.sessions.callbacks.lightning  # noqa: F401
