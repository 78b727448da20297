"""A session in Hugging Face's Trainer, with a tiny network."""

from types import SimpleNamespace

import pytest
import torch

import tersor
from tersor import Prune, Quantize, Rule, Schedule
from tersor.errors import TersorWarning, UsageError
from tests.sessions.toys import Round

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

RULE = Rule(
    "bert.encoder*weight",
    Quantize(bits=4),
    Prune(density=0.5),
    schedule=Schedule("linear", end=2),
    train=Round(begin=1, pull=0.01),
)
DATA = [{"input_ids": torch.arange(6) + number, "labels": torch.tensor(number % 3)} for number in range(8)]


def build():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=3
    )
    return transformers.BertForSequenceClassification(config)


def trained(folder, steps, resume=None, rule=RULE):
    from tersor.sessions.callbacks.huggingface import FILE, SessionCallback

    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    session = tersor.prepare(model, rule, optimizer=optimizer)
    args = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        save_steps=2,
        lr_scheduler_type="constant",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = transformers.Trainer(
        model, args, train_dataset=DATA, optimizers=(optimizer, None), callbacks=[SessionCallback(session)]
    )
    if resume is not None:
        session.load(resume / FILE)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return session, trainer


def test_trained_saved_and_resumed(tmp_path):
    session, _ = trained(tmp_path / "whole", 4)
    assert session.done == 4 and session.density() == pytest.approx(0.5, abs=0.02)
    again, _ = trained(tmp_path / "again", 4, resume=tmp_path / "whole" / "checkpoint-2")
    assert again.done == 4
    for name, value in session.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    model = session.model
    compressed = session.finalize()
    assert not model._forward_hooks
    weight = model.bert.encoder.layer[0].output.dense.weight
    assert len(weight.unique()) <= 16 and int((weight != 0).sum()) <= 32
    assert list(compressed.state_dict()) == list(build().state_dict())


def test_the_session_adds_its_loss(tmp_path):
    """A strong pull to the grid leaves weights on it, which shows that the penalty arrived in the gradients."""
    ends = []
    for pull in (0.0, 100.0):
        rule = Rule("bert.encoder*weight", Quantize(bits=2), train=Round(bits=2, pull=pull))
        session, _ = trained(tmp_path / str(pull), 4, rule=rule)
        chain = session.model.bert.encoder.layer[0].output.dense.parametrizations.weight
        ends.append(float((chain.original - chain[0](chain.original)).detach().abs().mean()))
    assert ends[1] < 0.9 * ends[0]


def test_a_training_that_was_broken_off_leaves_no_second_loss():
    from tersor.sessions.callbacks.huggingface import SessionCallback

    model = build()
    optimizer = torch.optim.AdamW(model.parameters())
    session = tersor.prepare(model, RULE, optimizer=optimizer)
    callback, args = SessionCallback(session), SimpleNamespace(gradient_accumulation_steps=1)
    for _ in range(2):
        callback.on_train_begin(args, None, None, optimizer=optimizer)
        assert len(model._forward_hooks) == 1
    with pytest.warns(TersorWarning, match="ends at step 0"):
        session.finalize()
    model.train()(**{name: value[None] for name, value in DATA[0].items()})
    assert not model._forward_hooks


def test_another_optimizer_is_refused(tmp_path):
    from tersor.sessions.callbacks.huggingface import SessionCallback

    model = build()
    session = tersor.prepare(model, RULE, optimizer=torch.optim.AdamW(model.parameters()))
    args = transformers.TrainingArguments(output_dir=str(tmp_path), max_steps=1, report_to=[], use_cpu=True)
    trainer = transformers.Trainer(model, args, train_dataset=DATA, callbacks=[SessionCallback(session)])
    with pytest.raises(UsageError, match="session's optimizer"):
        trainer.train()
