import pytest
import torch
from torch import nn

from benchmarks.journal import work_folder
from benchmarks.training import Plan, seeded
from examples.loop import train
from tersor.quantization import Binarize, Palettize
from tersor.recipe import Rule
from tersor.simulation import BinaryConnect, ClusterTerm
from tests.strategies import same_bits


@pytest.fixture
def data():
    """Three clouds that a linear layer tells apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (120,), generator=generator)
    images = torch.randn(120, 1, 4, 4, generator=generator)
    images[torch.arange(120), 0, labels, labels] += 4
    return images, labels


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 3))


RULES = {
    "nothing": [],
    "stochastic signs": [Rule("*.weight", Binarize("tensor"), train=BinaryConnect(stochastic=True))],
    "clusters": [Rule("*.weight", Palettize(2), train=ClusterTerm())],
}


@pytest.mark.parametrize("name", RULES)
def test_a_stopped_run_goes_on_bit_by_bit(data, tmp_path, name):
    plan, calls = Plan(3, 0.01, 30), []

    def stopping(outputs, labels):
        calls.append(1)
        if len(calls) == 7:  # in the second of three epochs of four steps
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(outputs, labels)

    whole = seeded(build, 0)
    train(whole, RULES[name], data, plan, 5)
    with pytest.raises(KeyboardInterrupt):
        train(seeded(build, 0), RULES[name], data, plan, 5, loss=stopping, state=tmp_path / "state")
    assert (tmp_path / "state").exists()
    again = seeded(build, 0)
    compressed = train(again, RULES[name], data, plan, 5, loss=stopping, state=tmp_path / "state")
    assert len(calls) == 7 + 8 and not (tmp_path / "state").exists()
    for key, tensor in whole.state_dict().items():
        assert same_bits(again.state_dict()[key], tensor)
        assert same_bits(compressed.state_dict()[key], tensor)


def test_batch_norms_settle_on_the_final_weights(data):
    """Moments are those of the signs, not of the random ones that were drawn in training."""
    model = seeded(build, 0)
    train(model, RULES["stochastic signs"], data, Plan(2, 0.01, 60), 0, settle=True)
    hidden = model[1](data[0].flatten(1))
    torch.testing.assert_close(model[2].running_mean, hidden.mean(0), rtol=1e-3, atol=1e-4)


def test_states_of_other_plans_lie_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("TERSOR_WORK", str(tmp_path))
    folders = {work_folder("name", plan) for plan in ([1, 2], [1, 3], [1, 2])}
    assert len(folders) == 2 and all(folder.is_dir() for folder in folders)
