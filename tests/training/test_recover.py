"""Recovery on tiny nets: what it may change, and that it never makes things worse."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from tersor.calibration import Factor, Trellis, collect, dependent_uniform, snap
from tersor.calibration.layout import Layout
from tersor.coding import to_indices
from tersor.errors import CalibrationError, MismatchError, UsageError
from tersor.quantization import Ternarize
from tersor.training import Recover, recover
from tersor.training.trainer import surely_smaller

FAST = Recover(epochs=4, batch=16, layer_steps=4, lr=0.03)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(5)


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(32, 5)
    )


def quantized(model, samples, width=0.7, masked=False):
    """(student, tensors): 8-state trellis codes of coarse steps without feedback, and biases that are off."""
    student, tensors = copy.deepcopy(model), {}
    for name, statistics in collect(model, samples).items():
        weight = model.get_parameter(name).detach()
        mask = torch.rand(weight.shape) < 0.7 if masked else None
        steps = snap(Layout().matrices(weight).std(2) * width)
        blind = Factor(None, torch.ones(1, weight[0].numel(), dtype=torch.float64))
        tensors[name] = dependent_uniform(weight, statistics, blind, steps, Trellis(8, 1), mask=mask)
        with torch.no_grad():
            student.get_parameter(name.replace("weight", "bias")).add_(0.1)
            student.get_parameter(name).copy_(tensors[name].dequantize())
    return student, tensors


def a_case(**kwargs):
    model = network().train()
    samples = list(torch.randn(128, 3, 8, 8).cumsum(2).split(64))
    return model, *quantized(model, samples, **kwargs), samples


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_floats_come_nearer_to_the_teacher_and_nothing_given_changes():
    model, student, tensors, samples = a_case()
    teacher, start = state(model), state(student)
    found = recover(model, student, tensors, samples, FAST)
    assert found.after < 0.95 * found.before
    assert found.tensors == tensors
    assert set(found.floats) == {"0.bias", "1.weight", "1.bias", "5.bias"}
    assert not torch.equal(found.floats["5.bias"], start["5.bias"])
    assert same(teacher, state(model)) and same(start, state(student)) and model.training
    again = recover(model, student, tensors, samples, FAST)
    assert same(found.floats, again.floats) and found.after == again.after


def test_nothing_better_returns_the_start():
    model, student, tensors, samples = a_case()
    wild = dataclasses.replace(FAST, lr=1e3, epochs=2)
    found = recover(model, student, tensors, samples, wild)
    assert found.after == found.before
    assert same(found.floats, {name: student.get_parameter(name) for name in found.floats})


@pytest.mark.parametrize("masked", [False, True])
def test_new_codes_are_paths_and_masks_stay(masked):
    model, student, tensors, samples = a_case(masked=masked, width=1.0)
    found = recover(model, student, tensors, samples, dataclasses.replace(FAST, codes=True))
    assert found.after <= found.before
    assert any(not torch.equal(found.tensors[n].codes, tensors[n].codes) for n in tensors)
    for name, tensor in found.tensors.items():
        mask = None if tensor.mask is None else tensor.mask.reshape(-1).numpy()
        to_indices(tensor.codes.reshape(-1).numpy(), tensor.shape[1:].numel(), tensor.trellis, mask)
        assert torch.equal(tensor.scale, tensors[name].scale)
        assert tensor.mask is tensors[name].mask
        if masked:
            assert not tensor.dequantize()[~tensor.mask].any()


def test_other_grids_are_rounded_by_feedback():
    model = nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 1))
    samples = [{"input": torch.randn(200, 16).cumsum(1)}]
    tensors = {name: Ternarize().fit(model.get_parameter(name).detach()) for name in ("0.weight", "2.weight")}
    student = copy.deepcopy(model)
    with torch.no_grad():
        for name, tensor in tensors.items():
            student.get_parameter(name).copy_(tensor.dequantize())
            student.get_parameter(name.replace("weight", "bias")).add_(0.5)
    found = recover(model, student, tensors, samples, dataclasses.replace(FAST, codes=True))
    assert found.after < 0.9 * found.before
    assert all(type(found.tensors[name]) is type(tensors[name]) for name in tensors)


def test_a_callers_own_quantizer_is_asked_in_order():
    model, student, tensors, samples = a_case()
    asked = []

    def quantize(name, weight, statistics):
        asked.append(name)
        return tensors[name]

    begun = []
    options = dataclasses.replace(FAST, codes=True, epochs=1)
    recover(model, student, tensors, samples, options, quantize=quantize, progress=begun.append)
    assert asked == list(tensors)
    assert begun == ["epoch 1 of 1", *tensors, "epoch 1 of 1"]


def test_luck_is_no_gain():
    gains = torch.tensor([1.0, -0.9, 1.1, -0.8, 0.2])
    start = torch.full((5,), 4.0)
    assert not surely_smaller(start - gains, start)
    assert surely_smaller(start - gains.abs(), start)
    assert surely_smaller(start[:1] - 0.1, start[:1]) and not surely_smaller(start, start)


def test_errors_name_what_is_wrong():
    model, student, tensors, samples = a_case()
    with pytest.raises(UsageError, match="none"):
        recover(model, student, tensors, [], FAST)
    with pytest.raises(MismatchError, match=r"5\.weight"):
        recover(model, student, {"5.weight": tensors["0.weight"]}, samples, FAST)
    with pytest.raises(MismatchError, match="same parameters"):
        recover(nn.Linear(2, 2), student, tensors, samples, dataclasses.replace(FAST, codes=True))
    with pytest.raises(CalibrationError, match="step 3"):
        recover(model, student, tensors, samples, dataclasses.replace(FAST, distance=_turns_bad()))
    with pytest.raises(CalibrationError, match="held-out"):
        recover(model, student, tensors, [torch.full((4, 3, 8, 8), torch.inf)], FAST)


def _turns_bad():
    calls = []

    def distance(student, teacher):
        if student.requires_grad:
            calls.append(1)
        return (student - teacher).square().mean() * (float("nan") if len(calls) == 3 else 1.0)

    return distance


@pytest.mark.parametrize("wrong", [{"epochs": -1}, {"lr": 0}, {"held_out": 1.0}, {"temperature": float("inf")}])
def test_settings_are_checked(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Recover(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": "4"},
        {"epochs": 1.5},
        {"batch": True},
        {"lr": "x"},
        {"held_out": "half"},
        {"codes": 1},
        {"classes": "yes"},
        {"augment": 3},
        {"seed": 0.5},
    ],
)
def test_settings_of_wrong_types(wrong):
    with pytest.raises(UsageError, match=f"recover: {next(iter(wrong))} must be"):
        Recover(**wrong)


def test_arguments_of_wrong_types():
    model = nn.Linear(2, 2)
    for arguments, says in (
        (("f.tsr", model, {}, []), "model must be an nn.Module, got str"),
        ((model, None, {}, []), "student must be an nn.Module, got NoneType"),
        ((model, model, {"weight": model.weight}, []), "tensors must be compressed tensors"),
        ((model, model, {}, [], {"epochs": 3}), r"options must be Recover\(...\), got dict"),
    ):
        with pytest.raises(UsageError, match=says):
            recover(*arguments)
