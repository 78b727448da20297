"""Calibrated compression end to end, on small networks."""

from __future__ import annotations

import copy
import io
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import tersor
from tersor.allocation import Budget
from tersor.calibrated import compress_calibrated
from tersor.container.writer import write_tsr
from tersor.errors import CalibrationError, TersorWarning, UsageError
from tersor.posttraining import Calibrate
from tersor.tensors import Uniform
from tersor.work import Work, identity_of


class Net(nn.Module):
    """A small ResNet: folded and unfoldable batch norms, a grouped convolution, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.layers = nn.ModuleList([nn.Conv2d(16, 16, 3, padding=1, groups=g) for g in (1, 4)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(16), nn.BatchNorm2d(16)])
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        for conv, norm in zip(self.layers, self.norms, strict=True):
            x = torch.relu(x + norm(conv(x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
    return model.eval()


@pytest.fixture
def samples() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 3, 8, 8, generator=generator) for _ in range(2)]


FAST = Calibrate(survivors=1)


def size(compressed: tersor.CompressedModel) -> int:
    file = io.BytesIO()
    write_tsr(file, compressed.entries, {})
    return len(file.getvalue())


def error(model: nn.Module, compressed: tersor.CompressedModel, samples: list[Tensor]) -> float:
    restored = copy.deepcopy(model)
    restored.load_state_dict(compressed.state_dict())
    restored.eval()
    with torch.no_grad():
        return sum(float((model(x) - restored(x)).square().mean()) for x in samples)


@pytest.mark.parametrize("target", [1200, 2500])
def test_sizes_are_met_from_below(net: Net, samples: list[Tensor], target: int) -> None:
    before = copy.deepcopy(net.state_dict())
    compressed = tersor.compress(net, calibration=samples, max_bytes=target, options=FAST)
    assert 0.99 * target <= size(compressed) <= target
    assert compressed.curve is not None and compressed.curve.chosen.bytes == size(compressed)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert list(compressed.state_dict()) == list(before)
    assert all(value.shape == before[key].shape for key, value in compressed.state_dict().items())


def test_more_bytes_bring_outputs_closer(net: Net, samples: list[Tensor]) -> None:
    errors = [
        error(net, tersor.compress(net, calibration=samples, bits=bits, options=FAST), samples) for bits in (2, 4, 7)
    ]
    assert errors[0] > 4 * errors[1] > 16 * errors[2]


def test_calibration_beats_rounding_of_the_same_size(net: Net, samples: list[Tensor]) -> None:
    calibrated = tersor.compress(net, calibration=samples, max_bytes=1500, options=FAST)
    plain = tersor.compress(net, max_bytes=1500, options=FAST)
    assert size(plain) <= 1500
    assert error(net, calibrated, samples) < 0.5 * error(net, plain, samples)


def test_sequential_targets_lower_the_divergence(net: Net, samples: list[Tensor]) -> None:
    def at(sequential: bool) -> float:
        options = replace(FAST, sequential=sequential)
        found = [
            tersor.compress(net, calibration=samples, max_bytes=size, options=options).curve for size in (1000, 1300)
        ]
        return sum(curve.chosen.divergence for curve in found if curve is not None)

    assert at(True) < at(False)


def test_threads_and_repetition_do_not_change_the_file(net: Net, samples: list[Tensor]) -> None:
    files = []
    for threads in (1, 2, 1):
        compressed = tersor.compress(net, calibration=samples, max_bytes=2000, options=FAST, threads=threads)
        file = io.BytesIO()
        write_tsr(file, compressed.entries, {})
        files.append(file.getvalue())
    assert files[0] == files[1] == files[2]


def test_a_metric_limits_the_drop_in_few_calls(net: Net, samples: list[Tensor]) -> None:
    calls = []

    def evaluate(model: nn.Module) -> float:
        assert not model.training
        calls.append(0)
        with torch.no_grad():
            return -sum(float((model(x) - net(x)).square().mean()) for x in samples)

    compressed = tersor.compress(net, calibration=samples, max_drop=0.01, evaluate=evaluate, options=FAST)
    curve = compressed.curve
    assert curve is not None and curve.chosen.metric is not None and curve.reference is not None
    assert curve.reference - curve.chosen.metric <= 0.01
    assert len(calls) == len(curve.points) + 1 <= 9
    within = [p.bytes for p in curve.points if curve.reference - (p.metric or 0) <= 0.01]
    assert curve.chosen.bytes == min(within)
    assert curve.to_dict()["chosen"]["metric"] == curve.chosen.metric


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        (lambda m: float("nan"), "gave nan"),
        (lambda m: m.nothing, "raised AttributeError"),
        (lambda m: "90", "must return a number"),
        (lambda m: torch.zeros(2), "must return a number"),
    ],
)
def test_a_metric_that_fails_is_an_error(net: Net, samples: list[Tensor], evaluate: object, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        tersor.compress(net, calibration=samples, max_drop=1, evaluate=evaluate, options=FAST)  # type: ignore[arg-type]


def test_a_budget_below_the_floor_says_what_the_floor_is(net: Net, samples: list[Tensor]) -> None:
    with pytest.raises(UsageError, match=r"below the floor: the smallest file .* takes [\d,]+ bytes"):
        tersor.compress(net, calibration=samples, max_bytes=60, options=FAST)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"calibration": [torch.zeros(2, 3, 8, 8)], "lossless": True}, "excludes recipe and lossless"),
        ({"calibration": [torch.zeros(2, 3, 8, 8)], "bits": 3, "max_bytes": 5}, "exclude each other"),
        ({"calibration": [torch.zeros(2, 3, 8, 8)], "max_drop": 1}, "needs evaluate"),
        ({"calibration": []}, "there are none"),
        ({"max_drop": 1}, "max_drop needs calibration"),
        ({"max_bytes": 100, "bits": 4}, "max_bytes excludes"),
        ({"max_bytes": -1}, "max_bytes must be a positive number"),
        ({"calibration": [torch.zeros(2, 3, 8, 8)], "max_drop": -1}, "max_drop must be a number of 0 or more"),
        ({"bits": 2.5}, "whole number"),
        ({"options": FAST}, "options needs calibration"),
        ({"calibration": [torch.zeros(2, 3, 8, 8)], "options": {"states": 1}}, "must be a tersor.Calibrate"),
        ({"calibration": [torch.zeros(2, 3, 8, 8)], "evaluate": 3}, "must be a function"),
        ({"calibration": [torch.zeros(2, 3, 8, 8)], "options": Calibrate(keep=("nothing.*",))}, "matches none"),
    ],
)
def test_contradictions_are_named(net: Net, arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tersor.compress(net, **arguments)


def test_a_weight_that_is_nan_is_named(net: Net, samples: list[Tensor]) -> None:
    with torch.no_grad():
        net.stem.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(CalibrationError, match=r"^stem\.weight of the model holds NaN"):
        tersor.compress(net, calibration=samples, bits=4, options=Calibrate(fold=False))


def test_inference_mode_makes_no_difference(net: Net, samples: list[Tensor]) -> None:
    expected = tersor.compress(net, calibration=samples, bits=4, options=FAST).state_dict()
    with torch.inference_mode():
        found = tersor.compress(net, calibration=samples, bits=4, options=FAST).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_labels_in_batches_are_hinted_at(net: Net) -> None:
    with pytest.raises(CalibrationError, match="leave labels out"):
        tersor.compress(net, calibration=[(torch.zeros(2, 3, 8, 8), torch.zeros(2))], bits=4)


def test_a_model_without_weights_is_refused() -> None:
    with pytest.raises(UsageError, match="no weights of floating point"):
        tersor.compress(torch.nn.ReLU(), calibration=[torch.zeros(2, 3)], bits=4)


def test_samples_of_the_wrong_shape_are_named(net: Net) -> None:
    with pytest.raises(CalibrationError, match="batch 0"):
        tersor.compress(net, calibration=[torch.zeros(2, 4, 8, 8)], bits=4)


def test_inf_in_samples_names_the_layer_and_nan_the_sample(net: Net) -> None:
    x = torch.zeros(2, 3, 8, 8)
    with pytest.raises(CalibrationError, match=r"stem\.weight"):
        tersor.compress(net, calibration=[x + float("inf")], bits=4, options=Calibrate(fold=False))
    with pytest.raises(CalibrationError, match=r"batch 1, .*holds NaN"):
        tersor.compress(net, calibration=[x, x + float("nan")], bits=4)


def test_calibration_needs_a_module(net: Net, samples: list[Tensor]) -> None:
    with pytest.raises(UsageError, match=r"must be an nn\.Module"):
        tersor.compress(net.state_dict(), calibration=samples)


def test_what_is_kept_stays_exact(net: Net, samples: list[Tensor]) -> None:
    options = replace(FAST, keep=("head.*",), fold=False)
    values = tersor.compress(net, calibration=samples, bits=12, options=options).state_dict()
    assert torch.equal(values["head.weight"], net.head.weight) and torch.equal(values["head.bias"], net.head.bias)
    assert not torch.equal(values["stem.weight"], net.stem.weight)


def test_layers_that_no_sample_reached_get_8_bits(net: Net, samples: list[Tensor]) -> None:
    net.unused = nn.Linear(40, 5)
    with pytest.warns(TersorWarning, match=r"no sample reached unused\.weight"):
        compressed = tersor.compress(net, calibration=samples, bits=6, options=FAST)
    unused = next(entry.tensor for entry in compressed.entries if entry.name == "unused.weight")
    assert isinstance(unused, Uniform) and unused.bits == 8


class Tied(nn.Module):
    """A language model whose embedding is its output layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.mix = nn.Linear(16, 16)
        self.out = nn.Linear(16, 50, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.mix(self.embed(tokens))))


def test_tied_weights_are_stored_once() -> None:
    torch.manual_seed(0)
    model = Tied()
    samples = [torch.randint(50, (4, 12)) for _ in range(2)]
    compressed = tersor.compress(model, calibration=samples, bits=6, options=FAST)
    entries = {entry.name: entry for entry in compressed.entries}
    assert entries["out.weight"].tied_to == "embed.weight" and isinstance(entries["embed.weight"].tensor, Uniform)
    values = compressed.state_dict()
    assert values["out.weight"].data_ptr() == values["embed.weight"].data_ptr()


class Stop(Exception):
    pass


def test_an_interrupted_run_goes_on_with_the_same_result(net: Net, samples: list[Tensor], tmp_path) -> None:
    def run(work: Work | None, stop_at: int | None) -> tuple[bytes, list[str]]:
        seen: list[str] = []

        def progress(stage: str, done: float, total: float) -> None:
            seen.append(stage)
            if len(seen) == stop_at:
                raise Stop

        compressed = compress_calibrated(
            net, samples, budget=Budget(max_bytes=1500), options=FAST, work=work, progress=progress
        )
        file = io.BytesIO()
        write_tsr(file, compressed.entries, {})
        return file.getvalue(), seen

    expected, stages = run(None, None)
    identity = identity_of(net, samples, FAST)
    for stop_at in (6, 7, len(stages) - 1):
        with pytest.raises(Stop):
            run(Work(tmp_path / "work", identity), stop_at)
    assert run(Work(tmp_path / "work", identity), None)[0] == expected


def test_batch_norms_are_estimated_again_only_where_that_helps(net: Net, samples: list[Tensor]) -> None:
    options = replace(FAST, fold=False, correct=False)
    plain = tersor.compress(net, calibration=samples, bits=4, options=options)
    again = tersor.compress(net, calibration=samples, bits=4, options=replace(options, reestimate=True))
    assert plain.curve is not None and again.curve is not None
    assert again.curve.chosen.divergence <= plain.curve.chosen.divergence
    with pytest.raises(UsageError, match="reestimate needs fold=False"):
        Calibrate(reestimate=True)


def test_without_data_one_step_serves_all_tensors_but_none_vanishes() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = {"large": 2.0, "middle": 1.0, "tiny": 1e-3}
    state = {name: scale * torch.randn(64, 64, generator=generator) for name, scale in scales.items()}
    compressed = tersor.compress(state, max_bytes=4000)
    assert 3960 <= size(compressed) <= 4000
    steps = {entry.name: float(entry.tensor.scale.mean()) for entry in compressed.entries}  # type: ignore[union-attr]
    assert steps["large"] == pytest.approx(steps["middle"], rel=0.1)
    for name, value in compressed.state_dict().items():
        agreement = torch.corrcoef(torch.stack([value.reshape(-1), state[name].reshape(-1)]))[0, 1]
        assert agreement > 0.6


@pytest.mark.parametrize("states", [1, 8])
def test_generous_budgets_are_nearly_exact(net: Net, samples: list[Tensor], states: int) -> None:
    errors = []
    for target in (4000, 10**6):
        for calibration in (samples, None):
            options = replace(FAST, states=states)
            errors.append(
                error(net, tersor.compress(net, calibration=calibration, max_bytes=target, options=options), samples)
            )
    assert errors[2] < errors[0] and errors[2] < 1e-6 and errors[3] < 1e-4


def test_small_drops_are_met_by_finer_steps(net: Net, samples: list[Tensor]) -> None:
    def evaluate(model: nn.Module) -> float:
        with torch.no_grad():
            return -sum(float((model(x) - net(x)).abs().mean()) for x in samples)

    for limit in (0.1, 1e-3):
        curve = tersor.compress(net, calibration=samples, max_drop=limit, evaluate=evaluate, options=FAST).curve
        assert curve is not None and curve.reference is not None and curve.chosen.metric is not None
        assert limit / 4 < curve.reference - curve.chosen.metric <= limit


def test_a_metric_that_changes_its_model_does_no_harm(net: Net, samples: list[Tensor]) -> None:
    before = copy.deepcopy(net.state_dict())

    def evaluate(model: nn.Module) -> float:
        with torch.no_grad():
            model.head.weight.zero_()  # type: ignore[union-attr,operator]
        return 1.0

    compressed = tersor.compress(net, calibration=samples, bits=8, evaluate=evaluate, options=FAST)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert error(net, compressed, samples) < 1e-2


@pytest.mark.parametrize("option", ["keep", "techniques"])
def test_one_text_is_no_tuple_of_texts(option: str) -> None:
    with pytest.raises(UsageError, match=f"{option} must be a tuple"):
        Calibrate(**{option: "uniform"})


def test_values_are_no_logits(net: Net, samples: list[Tensor]) -> None:
    """Shifting all logits alike costs nothing; shifting values does."""
    found = {}
    for outputs in ("auto", "logits", "values"):
        compressed = tersor.compress(net, calibration=samples, bits=4, options=replace(FAST, outputs=outputs))
        assert compressed.curve is not None
        found[outputs] = compressed.curve.chosen.divergence
    assert found["auto"] == found["logits"] < found["values"]
