"""Recipes that make networks smaller: rules of channels and blocks, weights after them; `compress` does the rest."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import tersor
from tersor import Prune, PruneBlocks, PruneChannels, Quantize, Recipe, Rule
from tersor.errors import UsageError
from tersor.shrinking.gradual import Gradual
from tersor.structure.carried import manifest_of

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.back = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x):
        return x + self.back(torch.relu(self.wide(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block(), Block())
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.blocks(x))


def build():
    torch.manual_seed(0)
    return Net()


def sizes(model):
    return [block.wide.out_features for block in model.blocks if isinstance(block, Block)]


def test_a_rule_selects_the_groups_that_its_tensors_compute():
    found = tersor.prune(build(), Rule("blocks.1.*", channels=PruneChannels(ratio=0.5)), example_inputs=X)
    assert sizes(found.model) == [8, 4, 8]
    again = tersor.prune(build(), PruneChannels(ratio=0.5, match="blocks.1.*"), example_inputs=X)
    assert torch.equal(found.model(X), again.model(X))


def test_the_last_rule_that_matches_a_group_decides():
    rules = [Rule("blocks.*.wide.*", channels=PruneChannels(ratio=0.25))]
    rules += [Rule("blocks.2.*", channels=PruneChannels(ratio=0.75))]
    assert sizes(tersor.prune(build(), Recipe(rules), example_inputs=X).model) == [6, 6, 2]
    every = [Rule("*.wide.*", channels=PruneChannels(ratio=0.75)), Rule("*.wide.*", channels=PruneChannels(ratio=0.5))]
    assert sizes(tersor.prune(build(), every, example_inputs=X).model) == [4, 4, 4]


def test_blocks_go_first_then_channels_then_weights():
    recipe = Recipe(
        [
            Rule("*", Quantize(bits=8), prune=Prune(density=0.5)),
            Rule("blocks.0.wide.weight", prune=Prune(density=0.25)),
            Rule("*.wide.*", channels=PruneChannels(ratio=0.5)),
            Rule("blocks.[12].*", blocks=PruneBlocks(count=1)),
        ]
    )
    found = tersor.prune(build(), recipe, calibration=[X])
    assert found.blocks in (("blocks.1",), ("blocks.2",))
    assert sizes(found.model) == [4, 4] and found.units["blocks.0.wide.weight"] == (8, 4)
    assert int(found.masks["blocks.0.wide.weight"].sum()) == 6 and int(found.masks["head.weight"].sum()) == 9
    # A pattern of what has gone is no error: nobody could know which block it would be.
    named = Recipe([*recipe.rules, Rule(f"{found.blocks[0]}.wide.weight", prune=Prune(density=0.75))])
    assert tersor.prune(build(), named, calibration=[X]).blocks == found.blocks


def test_compress_does_the_rest(tmp_path):
    recipe = Recipe([Rule("*", Quantize(bits=8)), Rule("*.wide.*", channels=PruneChannels(ratio=0.5))])
    with pytest.raises(UsageError, match=r"'\*\.wide\.\*' removes parts of the network.*tersor\.prune"):
        tersor.compress(build(), recipe)
    found = tersor.prune(build(), recipe, example_inputs=X)
    tersor.save(tersor.compress(found.model, recipe), tmp_path / "small.tsr")
    again = build()
    tersor.load(tmp_path / "small.tsr", into=again)
    assert sizes(again) == [4, 4, 4] and manifest_of(again) == manifest_of(found.model)
    assert torch.allclose(again(X), found.model(X), atol=0.05)
    assert torch.equal(tersor.compress(found.model.state_dict(), recipe).state_dict()["head.bias"], again.head.bias)


def test_recipes_in_the_wrong_place():
    removes = Recipe([Rule("*", prune=Prune(density=0.5)), Rule("blocks.0.*", channels=PruneChannels(ratio=0.5))])
    with pytest.raises(UsageError, match=r"'blocks\.0\.\*' removes parts of the network, which tersor\.prune alone"):
        Gradual(build(), removes, tersor.Schedule(end=2))
    with pytest.raises(UsageError, match=r"'bloks\.\*' matches none"):
        tersor.prune(build(), Rule("bloks.*", channels=PruneChannels(ratio=0.5)), example_inputs=X)
    with pytest.raises(UsageError, match=r"'heed\.weight' matches none.*did you mean head\.weight"):
        tersor.prune(build(), PruneChannels(ratio=0.5, keep="heed.weight"), example_inputs=X)
    with pytest.raises(UsageError, match="no rule of the recipe prunes"):
        tersor.prune(build(), Rule("*", Quantize()), example_inputs=X)


def test_the_recipe_of_the_documentation():
    import yaml

    page = (Path(__file__).parents[2] / "docs" / "pruning.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    recipe = Recipe.from_list(yaml.safe_load(block))
    assert recipe.rules[1] == Rule("blocks.*", blocks=PruneBlocks(count=1, criterion="l1"))
    assert recipe.rules[2] == Rule("blocks.*.first.*", channels=PruneChannels(ratio=0.5)) and len(recipe.rules) == 4
