"""Recipes: patterns, the last match wins, and their form as YAML."""

import json

import pytest
import torch

from tersor.errors import InputError, UsageError
from tersor.pruning import Prune, PruneBlocks, PruneChannels, Regrow, Schedule
from tersor.quantization import REPRESENTATIONS, Cast, Lossless, Palettize, Quantize
from tersor.recipe import Recipe, Rule, TensorKey
from tersor.simulation import ACTIVATIONS, TRAININGS
from tests.sessions.toys import ClampInputs, Round

KEYS = [
    TensorKey("features.0.weight", (8, 3, 3, 3), torch.float32),
    TensorKey("features.0.bias", (8,), torch.float32),
    TensorKey("classifier.weight", (10, 8), torch.bfloat16),
    TensorKey("steps", (2, 2), torch.int64),
    TensorKey("empty", (0, 4), torch.float32),
]


def representations(*rules: Rule) -> dict[str, object]:
    return {name: treatment.representation for name, treatment in Recipe(rules).plan(KEYS).items()}


def test_default_is_8_bits_for_weights_10_for_short_rows_and_lossless_for_the_rest():
    keys = [*KEYS, TensorKey("long", (4, 32), torch.float32), TensorKey("depthwise", (32, 1, 5, 5), torch.float32)]
    plan = Recipe.default().plan(keys)
    bits = {name: t.representation.bits for name, t in plan.items() if isinstance(t.representation, Quantize)}
    assert bits == {"features.0.weight": 10, "classifier.weight": 10, "long": 8, "depthwise": 10}
    assert all(t.prune is None for t in plan.values())


def test_the_last_match_wins():
    got = representations(Rule("*", Quantize(bits=8)), Rule("features.*", Quantize(bits=3)), Rule("f*0.*", Palettize()))
    assert got["features.0.weight"] == Palettize()
    assert got["classifier.weight"] == Quantize(bits=8)


def test_pruning_and_representation_are_decided_apart():
    plan = Recipe([Rule("*", Quantize(), Prune(density=0.5)), Rule("classifier.*", Palettize(bits=2))]).plan(KEYS)
    assert plan["classifier.weight"].representation == Palettize(bits=2)
    assert plan["classifier.weight"].prune == Prune(density=0.5)
    assert plan["steps"].prune is None


def test_exact_names_reach_vectors_but_never_integers():
    got = representations(Rule(("features.0.bias", "steps"), Cast("float16")))
    assert got["features.0.bias"] == Cast("float16")
    assert got["steps"] == Lossless()


def test_a_pattern_that_matches_nothing_is_an_error_with_a_hint():
    with pytest.raises(UsageError, match=r"'clasifier.weight' matches none of the 5 tensors; did you mean classifier"):
        Recipe([Rule("clasifier.weight", Quantize())]).plan(KEYS)
    with pytest.raises(UsageError, match=r"'featurs\.\*' matches none of the 5 tensors; did you mean features\.\*"):
        Recipe([Rule("featurs.*", Quantize())]).plan(KEYS)
    with pytest.raises(UsageError, match=r"'classifier' matches none.*did you mean classifier\.\*"):
        Recipe([Rule("classifier", Quantize())]).plan(KEYS)
    with pytest.raises(
        UsageError, match=r"'zzz' matches none of the 5 tensors; .* whole names, such as features\.0\.weight"
    ):
        Recipe([Rule("zzz", Quantize())]).plan(KEYS)


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_recipes_round_trip_through_files(tmp_path, suffix):
    import yaml

    recipe = Recipe(
        [
            Rule("*", Quantize(bits=5, granularity="group", group_size=32), Prune(density=0.25)),
            Rule(("a.*", "b"), Palettize(bits=3), shared=True),
            Rule("c", prune=Prune(threshold=0.1), max_row=9),
            Rule("a.*", channels=PruneChannels(macs=0.5, keep=("a.last.*",), criterion="taylor")),
            Rule(("a.*", "b.*"), Cast("bfloat16"), blocks=PruneBlocks(count=2, criterion="l1")),
        ]
    )
    path = tmp_path / f"recipe.{suffix}"
    path.write_text(yaml.safe_dump(recipe.to_list()) if suffix == "yaml" else json.dumps(recipe.to_list()))
    assert Recipe.load(path) == recipe


@pytest.fixture
def toys(monkeypatch):
    """A kind of training, and a quantizer of activations, that recipes know by name."""
    monkeypatch.setitem(TRAININGS, Round.name, Round)
    monkeypatch.setitem(ACTIVATIONS, ClampInputs.name, ClampInputs)


def test_training_round_trips_through_yaml(tmp_path, toys):
    import yaml

    recipe = Recipe(
        [
            Rule("*", Quantize(bits=5), Prune(density=0.25), schedule=Schedule(end=9), train=Round(begin=3, bits=2)),
            Rule("a", prune=Prune(density=0.5), regrow=Regrow(every=3), activations=ClampInputs(rate=0.5)),
            Rule("b", train=Round()),
        ]
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.to_list()))
    assert Recipe.load(path) == recipe


def test_training_goes_with_its_representation():
    """A later representation asks for its own training; a later training keeps the representation."""
    plan = Recipe(
        [
            Rule("*", Quantize(bits=4), Prune(density=0.5), schedule=Schedule(end=9), train=Round()),
            Rule("classifier.*", Palettize(bits=2), activations=ClampInputs()),
            Rule("features.*", prune=Prune(density=0.2), train=Round(bits=7)),
        ]
    ).plan(KEYS)
    classifier, features = plan["classifier.weight"], plan["features.0.weight"]
    assert classifier.train is None and classifier.schedule == Schedule(end=9)
    assert classifier.activations == ClampInputs()
    assert features.representation == Quantize(bits=4) and features.train == Round(bits=7)
    assert features.schedule is None and features.prune == Prune(density=0.2)
    assert plan["steps"].train is None and plan["features.0.bias"].train is None


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"schedule": Schedule(end=3)}, "does nothing"),
        ({"representation": Quantize(), "regrow": Regrow()}, "schedule and regrow go with prune"),
        ({"train": Quantize()}, "is no kind of training"),
        ({"activations": Round()}, "is no quantizer of activations"),
        ({"prune": Prune(density=0.5), "schedule": Regrow()}, r"is not Schedule"),
        ({"representation": Palettize(), "shared": True, "train": Round()}, "shared codebooks are not trained"),
    ],
)
def test_training_in_the_wrong_place_is_a_usage_error(rule, says):
    with pytest.raises(UsageError, match=says):
        Rule("*", **rule)


@pytest.mark.parametrize("name", TRAININGS)
def test_rules_know_what_each_training_is_for(tmp_path, name):
    """As its own check of the representation has it, which stands for representations of other rules."""
    config = TRAININGS[name]()
    given = {Cast: {"dtype": "bfloat16"}, Quantize: {"granularity": "tensor"}}
    for kind in REPRESENTATIONS.values():
        representation = kind(**given.get(kind, {}))
        try:
            config.simulate(torch.randn(40, 40), representation, None)
        except UsageError:
            with pytest.raises(UsageError, match=rf"the rule for 'a': {name!r} trains .*, got {kind.name!r}"):
                Rule("a", representation, train=config)
        else:
            assert Rule("a", representation, train=config).train == config
    (tmp_path / "recipe.yaml").write_text(f"- {{match: a, lossless: {{}}, {name}: {{}}}}")
    with pytest.raises(UsageError, match=rf"recipe\.yaml: the rule for 'a': {name!r} trains"):
        Recipe.load(tmp_path / "recipe.yaml")


def test_two_trainings_in_a_rule_are_refused(toys, monkeypatch):
    monkeypatch.setitem(TRAININGS, "other", Round)
    with pytest.raises(UsageError, match="the rule for '\\*' sets two trainings, 'round' and 'other'; keep one"):
        Rule.from_dict({"match": "*", "round": {}, "other": {}})


def test_two_representations_in_a_rule_are_refused_with_both():
    with pytest.raises(UsageError, match=r"'x' sets two representations, Quantize\(.*\) and Palettize\(.*keep"):
        Rule("x", Quantize(), Palettize())


def test_yaml_as_documented(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        '- match: "*"\n  uniform: {bits: 6}\n- {match: [x, y], float: {dtype: bfloat16}}\n- {match: z, lossless: }\n'
    )
    assert Recipe.load(path).rules == (
        Rule("*", Quantize(bits=6)),
        Rule(("x", "y"), Cast("bfloat16")),
        Rule("z", Lossless()),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "list of rules"),
        ("a: 1", "list of rules"),
        ("- {uniform: {bits: 4}}", "'match'"),
        ("- {match: x}", "does nothing"),
        ("- {match: '', lossless: {}}", "pattern"),
        ("- {match: x, uniform: {bits: 40}}", "bits must be an integer from 1 to 16, got 40"),
        ("- {match: x, uniform: {bit: 4}}", "unknown option 'bit'"),
        ("- {match: x, uniforme: {bits: 4}}", "unknown key 'uniforme'"),
        ("- {match: x, uniform: 4}", "must be a mapping"),
        ("- {match: x, uniform: {}, palettize: {}}", "'x' sets two representations, 'uniform' and 'palettize'"),
        ("- {match: x, uniform: {}, shared: true}", "only palettize"),
        ("- {match: x, prune: {density: 2}}", "density"),
        ("- {match: x, lossless: {}, max_row: 0}", "max_row"),
        ("- {match: x, prune_channels: {ratio: 2}}", "ratio"),
        ("- {match: x, prune_channels: {ratio: 0.5, match: y}}", "another match"),
        ("- {match: x, prune_channels: {ratio: 0.5}, max_row: 8}", "max_row"),
        ("- {match: x, prune_blocks: {names: y}}", "names say which"),
        ("- {match: x, prune_blocks: {}}", "exactly one of names, count, ratio, macs, parameters"),
        ("- {match: x, uniform: {}, shared: 'yes'}", "shared must be true or false"),
        ("- {match: x, uniform: {}, max_row: true}", "max_row"),
        ("- {match: 5, uniform: {}}", "needs a pattern"),
        ("- {match: , uniform: {}}", "needs a pattern"),
        ("- {match: {a: 1}, uniform: {}}", "needs a pattern"),
        ("- {match: x, uniform: {}, uniform: {}}", "'uniform' is there twice"),
        (
            "- {match: x, uniform: {}, train: learned_steps}",
            "unknown key 'train'; the key is the name of one, learned_s",
        ),
        ("- {match: x, representation: uniform}", "unknown key 'representation'; the key is the name of one"),
        ("{{{", "YAML"),
        ("- !!python/object/apply:os.system ['true']", "YAML"),
    ],
)
def test_errors_name_the_file_and_the_fault(tmp_path, text, says):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=says) as caught:
        Recipe.load(path)
    assert "bad.yaml" in str(caught.value)


def test_a_missing_recipe_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml"):
        Recipe.load(tmp_path / "none.yaml")


def test_configs_in_the_wrong_place_are_usage_errors():
    for wrong in (
        {"representation": Prune(density=0.5)},
        {"representation": {"bits": 4}},
        {"prune": Quantize()},
        {"channels": Prune(density=0.5)},
        {"blocks": PruneChannels(ratio=0.5)},
    ):
        with pytest.raises(UsageError, match="the rule for"):
            Rule("*", **wrong)


@pytest.mark.parametrize("match", [5, None, {"a": 1}, Quantize(bits=4), (), ("a", 3), ""])
def test_rules_need_patterns(match):
    with pytest.raises(UsageError, match=r"a rule needs a pattern .*Rule\('\*\.weight', Quantize\(bits=4\)\); got"):
        Rule(match, Quantize())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shared": "yes"}, "shared must be true or false, got 'yes'"),
        ({"max_row": True}, "max_row must be a positive integer, got True"),
        ({"activations": Quantize(bits=8)}, r"is no quantizer of activations, such as QuantizeInputs\(bits=8\)"),
        ({"train": Palettize()}, "is no kind of training"),
    ],
)
def test_what_is_beside_a_representation(options, says):
    with pytest.raises(UsageError, match=f"the rule for 'x'.*{says}"):
        Rule("x", Quantize(bits=4), **options)


@pytest.mark.parametrize("rules", [None, 5, Quantize(bits=4), Rule("*", Quantize()), "r.yaml", [Quantize()]])
def test_recipes_need_rules(rules):
    hint = "; Recipe.load reads one from a file" if isinstance(rules, str) else ""
    with pytest.raises(UsageError, match=f"a Recipe takes a list of Rules, got .*{hint}"):
        Recipe(rules)


def test_load_needs_a_path():
    for wrong in (5, None, [Rule("*", Quantize())]):
        with pytest.raises(UsageError, match=r"Recipe\.load takes the path"):
            Recipe.load(wrong)


def test_errors_of_patterns_name_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("- {match: nowhere.weight, uniform: {bits: 4}}\n")
    for recipe in (Recipe.load(path), Recipe.load(path).parted()[1]):
        with pytest.raises(UsageError, match=r"mine\.yaml: the pattern 'nowhere\.weight' matches none"):
            recipe.plan(KEYS)


def test_numbers_of_yaml_may_have_exponents(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text('- {match: "*", uniform: {bits: 4}, learned_steps: {rate: 1e-3}}\n')
    assert Recipe.load(path).rules[0].train.rate == 0.001
