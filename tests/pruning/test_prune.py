"""`Prune` beyond magnitudes of single weights."""

import pytest
import torch

from tersor.errors import UnsupportedTypeError, UsageError
from tersor.pruning import Prune, WeightEvidence, mask_of
from tersor.recipe import Recipe, Rule
from tests.quantization.weights import draw_weight

OPTIONS = [
    Prune(density=0.3, criterion="l2", pattern="4x2"),
    Prune(pattern="2:4"),
    Prune(density=0.5, criterion="random", seed=9, scope="channel"),
    Prune(density=0.5, pattern="row", parts=4),
    Prune(density=0.1, scope="global", criterion="taylor", floor=0.02),
    Prune(density=0.5, criterion="wanda", scope="channel"),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_options_travel_in_recipes(options):
    recipe = Recipe([Rule("*", prune=options)])
    assert Recipe.from_list(recipe.to_list()) == recipe


def test_recipes_in_yaml_take_patterns(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text('- match: "*"\n  prune: {pattern: "2:4", criterion: l2}\n')
    assert Recipe.load(path).rules[0].prune == Prune(pattern="2:4", criterion="l2")


def test_masks_are_those_of_scores_and_pattern():
    weight = draw_weight((8, 12, 3))
    assert torch.equal(Prune(pattern="2:4").mask(weight), mask_of(weight.abs(), None, pattern="2:4"))
    squares = mask_of(weight.double() ** 2, 0.3, pattern="4x2")
    assert torch.equal(Prune(density=0.3, criterion="l2", pattern="4x2").mask(weight), squares)
    gates = Prune(density=0.5, parts=4).mask(weight)
    assert torch.equal(gates, mask_of(weight.abs(), 0.5, parts=4))
    evidence = WeightEvidence(weight, moment=torch.rand(12, 3))
    expected = mask_of(weight.double().abs() * evidence.moment.double().sqrt(), 0.5, scope="channel")
    assert torch.equal(Prune(density=0.5, criterion="wanda", scope="channel").mask(weight, evidence), expected)


def test_single_weights_rank_by_squares_as_by_magnitudes():
    for kind in ("huge", "subnormal", "heavy"):
        weight = draw_weight((9, 31), kind)
        assert torch.equal(Prune(density=0.4, criterion="l2").mask(weight), Prune(density=0.4).mask(weight))


def test_share_counts_patterns():
    assert Prune(pattern="1:4").share == 0.25 and Prune(density=0.3).share == 0.3 and Prune(threshold=1).share is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_float_dtype_and_gradient(dtype):
    weight = draw_weight((6, 8)).to(dtype).requires_grad_()
    assert int(Prune(pattern="2:4").mask(weight).sum()) == 24


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"density": 0.5, "criterion": "l7"}, r"prune: .*'l7'.*l1 \(weights\)"),
        ({"density": 0.5, "pattern": "4:2"}, "prune: pattern 4:2"),
        ({"density": 0.5, "pattern": "2:4"}, "prune: .*by itself"),
        ({"threshold": 0.5, "pattern": "2:4"}, "threshold is for single weights"),
        ({"threshold": 0.5, "criterion": "l2"}, "threshold is for single weights"),
        ({"threshold": 0.5, "scope": "global"}, "threshold is for single weights"),
        ({"pattern": "row"}, "exactly one"),
        ({"density": 0.5, "pattern": "row", "scope": "channel"}, "over rows"),
        ({"density": 0.5, "floor": 0.1}, "floor is for scope"),
        ({"density": 0.5, "floor": 1.5, "scope": "global"}, "floor"),
        ({"density": 0.5, "parts": 0}, "parts"),
        ({"density": 0.5, "parts": 4, "scope": "global"}, "parts"),
        ({"density": 0.5, "seed": -1}, "seed"),
        ({"pattern": "2:4", "scope": "channel"}, "leave scope"),
    ],
)
def test_contradictions_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        Prune(**options)


def test_masks_that_need_more_are_refused():
    weight = draw_weight((6, 8))
    with pytest.raises(UsageError, match=r"'wanda' needs .*calibration"):
        Prune(density=0.5, criterion="wanda").mask(weight)
    with pytest.raises(UsageError, match=r"several tensors.*tersor\.prune"):
        Prune(density=0.5, scope="global").mask(weight)
    with pytest.raises(UsageError, match="6 rows"):
        Prune(density=0.5, parts=4).mask(weight)
    with pytest.raises(UnsupportedTypeError):
        Prune(density=0.5, criterion="random").mask(weight.int())
