"""A session in Lightning, whose hooks a stub calls in their documented order: Lightning itself is not needed."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

import tersor
from tersor import Quantize, Rule
from tersor.errors import MissingExtraError, UsageError
from tests.sessions.toys import Round, X, Y, adam, build

RULE = Rule("*", Quantize(bits=4), train=Round(begin=1))


@pytest.fixture
def callback(monkeypatch):
    """The callback's class, made with a stub of `lightning.pytorch.Callback`."""
    package = ModuleType("lightning.pytorch")
    package.Callback = type("Callback", (), {})
    monkeypatch.setitem(sys.modules, "lightning", ModuleType("lightning"))
    monkeypatch.setitem(sys.modules, "lightning.pytorch", package)
    monkeypatch.delitem(sys.modules, "tersor.sessions.callbacks.lightning", raising=False)
    from tersor.sessions.callbacks.lightning import SessionCallback

    yield SessionCallback
    sys.modules.pop("tersor.sessions.callbacks.lightning", None)


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
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "tersor.sessions.callbacks.lightning", raising=False)
    with pytest.raises(MissingExtraError, match="pip install lightning"):
        import tersor.sessions.callbacks.lightning  # noqa: F401
