"""Whole networks in integers: close to the float one, exact where they promise it, and stored."""

import copy
import io

import pytest
import torch
from torch import nn

import tersor
from tersor import Observe, Quantize, load_int8, quantize_int8
from tersor.errors import CalibrationError, MismatchError, UnsupportedTypeError, UsageError
from tersor.integers.layers import IntegerConv, IntegerLayer, IntegerLinear
from tersor.integers.plan import Plan
from tersor.simulation import LearnedSteps, QuantizeInputs
from tersor.simulation.affine import affine
from tests.integers.nets import error, mobile, pictures


@pytest.fixture(scope="module")
def net():
    return mobile()


@pytest.fixture(scope="module")
def found(net):
    return quantize_int8(net, [pictures()])


def outputs(model, x):
    with torch.no_grad():
        return model(x)


def test_close_to_the_float_network_which_stays(net, found):
    x = pictures(seed=2)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    again = quantize_int8(net, [pictures()])
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in before.items())
    assert error(outputs(found.model, x), outputs(net, x)) < 0.03
    assert torch.equal(outputs(found.model, x), outputs(again.model, x))
    assert not found.floats and "depthwise" in str(found) and "5 layers in int8" in repr(found)


def test_nothing_is_simulated(found):
    """Layers hold int8 codes and hand codes on; batch norms and activations are gone."""
    layers = {n: m for n, m in found.model.named_modules() if isinstance(m, IntegerLayer)}
    assert set(layers) == {"stem", "depthwise", "project", "branch", "head"}
    assert all(m.codes.dtype == torch.int8 for m in layers.values())
    assert isinstance(layers["depthwise"], IntegerConv) and isinstance(layers["head"], IntegerLinear)
    assert not [m for m in found.model.modules() if isinstance(m, (nn.BatchNorm2d, nn.ReLU6))]
    seen = {}
    for name, module in layers.items():
        module.register_forward_hook(lambda m, a, y, name=name: seen.__setitem__(name, (a[0].dtype, y.dtype)))
    outputs(found.model, pictures(2))
    assert seen["stem"] == (torch.float32, torch.uint8)
    assert seen["depthwise"][0] == torch.uint8 and seen["head"][1] == torch.float32


def test_codes_between_layers_are_those_of_a_float_in_between(net, found):
    """The chain is the same network as its layers one by one, up to codes on an edge."""
    single = copy.deepcopy(found.model)
    for name, layer in found.plan.layers.items():
        if layer.output is not None:
            module = single.get_submodule(name)
            module.output_grid = torch.empty(0, dtype=torch.float64)
    x = pictures(seed=3)
    assert error(outputs(single, x), outputs(found.model, x)) < 2e-3


@pytest.mark.parametrize("method", ["min-max", "moving-average", "percentile", "entropy"])
def test_every_observer(net, method):
    got = quantize_int8(net, pictures().split(4), activations=Observe(method=method, symmetric=method == "min-max"))
    assert error(outputs(got.model, pictures()), outputs(net, pictures())) < 0.1


def test_fewer_bits_are_worse_and_stay_within_their_codes(net):
    got = quantize_int8(net, [pictures()], weights=Quantize(bits=4), activations=Observe(bits=3))
    assert 0.05 < error(outputs(got.model, pictures()), outputs(net, pictures())) < 0.9
    seen = []
    got.model.depthwise.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    outputs(got.model, pictures())
    assert seen[0].dtype == torch.uint8 and int(seen[0].max()) <= 7


def test_dynamic_needs_no_samples(net):
    plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(5, 6)
    got = quantize_int8(plain, static=False)
    assert error(outputs(got.model, x), outputs(plain, x)) < 0.03
    # Grids of their own: a batch a thousand times as large is as exact.
    large = torch.randn(5, 6) * 1000
    assert error(outputs(got.model, large), outputs(plain, large)) < 0.03
    with_samples = quantize_int8(net, [pictures()], static=False)
    assert error(outputs(with_samples.model, pictures()), outputs(net, pictures())) < 0.03
    without = quantize_int8(net, static=False)
    assert "depthwise" in without.floats and "torch's own" in without.floats["depthwise"]


def test_biases_make_up_for_the_mean(net):
    x = pictures(40) + 1
    shifts = []
    for correct in (False, True):
        got = quantize_int8(net, [x], weights=Quantize(bits=4), correct=correct)
        shifts.append(float((outputs(got.model, x) - outputs(net, x)).mean(0).norm()))
    assert shifts[1] < shifts[0]


def test_given_grids_and_kept_layers(net):
    grid = affine(-9, 9, 8)
    got = quantize_int8(net, [pictures()], grids={"stem": grid}, keep=["head", "bran*"])
    assert got.plan.layers["stem"].grid == grid
    assert set(got.floats) == {"head", "branch"} and isinstance(got.model.head, nn.Linear)


def test_codes_that_were_trained_stay():
    """Weights on a grid have the same codes once batch norms are folded into them; given grids stay as they are."""
    net = mobile()
    trained = Quantize(bits=4).fit(net.project.weight)
    net.project.weight.data = trained.dequantize()
    grid = affine(0, 5, 4)
    got = quantize_int8(net, [pictures()], weights=Quantize(bits=4), grids={"depthwise": grid})
    assert torch.equal(got.weights["project.weight"].codes, trained.codes)
    assert got.plan.layers["depthwise"].grid == got.plan.layers["stem"].output == grid


def test_the_root_may_be_a_layer():
    layer, x = nn.Linear(4, 3), torch.randn(6, 4)
    got = quantize_int8(layer, [x])
    assert isinstance(got.model, IntegerLinear) and error(outputs(got.model, x), outputs(layer, x)) < 0.03


def test_error_feedback(net):
    got = quantize_int8(net, [pictures(40)], weights=Quantize(bits=4), feedback=True)
    plain = quantize_int8(net, [pictures(40)], weights=Quantize(bits=4))
    expected = outputs(net, pictures(40))
    assert error(outputs(got.model, pictures(40)), expected) < error(outputs(plain.model, pictures(40)), expected)


def test_a_file_gives_the_same_network(net, found, tmp_path):
    path = tmp_path / "net.tsr"
    tersor.save(found.compressed(), path)
    x = pictures(seed=4)
    fresh = mobile(seed=9)
    weight = fresh.stem.weight.clone()
    got = load_int8(path, fresh)
    assert torch.equal(outputs(got, x), outputs(found.model, x))
    assert torch.equal(fresh.stem.weight, weight)
    # The same file as floats of the original class.
    tersor.load(path, into=fresh)
    assert error(outputs(fresh, x), outputs(net, x)) < 0.05
    assert Plan.from_json(found.plan.to_json()) == found.plan


def test_a_file_of_a_smaller_network_gives_the_same_network(net, tmp_path):
    x = pictures(seed=4)
    smaller = tersor.prune(net, tersor.PruneChannels(0.5), example_inputs=x, calibration=[x], repair=False).model
    got = quantize_int8(smaller, [x])
    tersor.save(got.compressed(), tmp_path / "smaller.tsr")
    assert torch.equal(outputs(load_int8(tmp_path / "smaller.tsr", mobile(seed=9)), x), outputs(got.model, x))
    floats = mobile(seed=9)
    tersor.load(tmp_path / "smaller.tsr", into=floats)
    assert error(outputs(floats, x), outputs(smaller, x)) < 0.05


def test_masks_do_not_count_as_bytes(net):
    held = tersor.prune(net, tersor.Prune(density=0.5)).model
    assert quantize_int8(held, [pictures()]).original_bytes == quantize_int8(net, [pictures()]).original_bytes


@pytest.mark.parametrize("first", ["head", "table"])
def test_tied_embeddings_stay_float(first, tmp_path):
    torch.manual_seed(0)
    net, fresh, x = Tied(first), Tied(first), torch.randint(6, (5, 3))
    got = quantize_int8(net, [x])
    tersor.save(got.compressed(), tmp_path / "tied.tsr")
    again = load_int8(tmp_path / "tied.tsr", fresh)
    assert set(got.floats) == {"table"} and torch.equal(again.table.weight, net.table.weight)
    assert torch.equal(outputs(again, x), outputs(got.model, x))


def test_state_dict_and_copies(found):
    x = pictures(seed=5)
    expected = outputs(found.model, x)
    copied = copy.deepcopy(found.model)
    for buffer in copied.buffers():
        buffer.zero_() if buffer.dtype != torch.float64 else buffer.fill_(1)
    copied.load_state_dict(found.model.state_dict())
    assert torch.equal(outputs(copied, x), expected)


def test_errors(net, tmp_path):
    x = pictures()
    with pytest.raises(UsageError, match="needs calibration"):
        quantize_int8(net)
    with pytest.raises(UsageError, match="there are none"):
        quantize_int8(net, [])
    with pytest.raises(CalibrationError, match="the model raised"):
        quantize_int8(net, [x[:, :2]])
    with pytest.raises(UsageError, match=r"keep: the pattern 'zz\*' matches none"):
        quantize_int8(net, [x], keep=["zz*"])
    with pytest.raises(UsageError, match="grids: 'act' is no layer"):
        quantize_int8(net, [x], grids={"act": affine(0, 1, 8)})
    with pytest.raises(UsageError, match="float64"):
        quantize_int8(mobile().double(), [x.double()])
    with pytest.raises(UsageError, match=r"no layer .*\(up: ConvTranspose2d"):
        quantize_int8(Up(), [x])
    broken = mobile()
    broken.stem.weight.data[0] = float("inf")
    with pytest.raises(CalibrationError, match="NaN or Inf"):
        quantize_int8(broken, [x])
    tersor.save(tersor.compress(net), tmp_path / "float.tsr")
    with pytest.raises(MismatchError, match="no integer network"):
        load_int8(tmp_path / "float.tsr", net)
    file = io.BytesIO()
    tersor.save(quantize_int8(net, [x]).compressed(), file)
    file.seek(0)
    with pytest.raises(MismatchError, match="not the model's"):
        load_int8(file, nn.Linear(3, 3))
    with pytest.raises(UsageError, match=r"fresh nn\.Module"):
        load_int8(tmp_path / "float.tsr", mobile)
    with pytest.raises(MismatchError, match="damaged"):
        Plan.from_json('{"format":1,"bits":8,"layers":{"a":{"grid":[0,0,0,255]}},"recurrent":[],"merged":{}}')


def test_inputs_that_are_no_floats(found):
    with pytest.raises(MismatchError, match=r"takes float32, got torch\.uint8"):
        found.model(torch.zeros(1, 3, 6, 6, dtype=torch.uint8))
    with pytest.raises(MismatchError, match="convolution of 3 channels"):
        found.model(torch.zeros(1, 4, 6, 6))


def test_transformers_of_torch():
    """Their fused kernels would ask for weights that are gone; attention stays float."""
    torch.manual_seed(0)
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1).eval()
    x = torch.randn(4, 5, 8)
    got = quantize_int8(net, [x])
    assert set(got.floats) == {"layers.0.self_attn"} and len(got.plan.layers) == 2
    assert error(outputs(got.model, x), outputs(net, x)) < 0.05


def test_what_stays_float_is_said():
    net = nn.Sequential(Up(), nn.BatchNorm2d(2), nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 1)), Up())
    net[1].running_mean.normal_()
    got = quantize_int8(nn.Sequential(net, nn.Conv2d(2, 2, 1)).eval(), [pictures(2)])
    assert set(got.plan.layers) == {"1"} and set(got.floats) == {"0.0.up", "0.2", "0.3.up"}
    assert "parametrized" in got.floats["0.2"] and "ConvTranspose2d" in str(got)


class Tied(nn.Module):
    """An embedding that is the output layer, too."""

    def __init__(self, first):
        super().__init__()
        parts = {"head": nn.Linear(4, 6, bias=False), "table": nn.Embedding(6, 4)}
        for name in (first, *parts):
            setattr(self, name, parts[name])
        self.head.weight = self.table.weight

    def forward(self, x):
        return self.head(self.table(x))


class Up(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 2, 2)

    def forward(self, x):
        return self.up(x)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weights": 8}, r"weights must be Quantize\(...\), .*got 8"),
        ({"weights": tersor.Palettize(4)}, "weights must be Quantize"),
        ({"activations": 8}, r"activations must be Observe\(...\), .*got 8"),
        ({"activations": Observe}, "activations must be Observe"),
        ({"grids": [3]}, "grids must be a mapping"),
        ({"grids": {"head": 3}}, "grids: that of 'head' must be an Affine"),
        ({"static": "no"}, "static must be True or False, got 'no'"),
        ({"correct": 1}, "correct must be True or False"),
        *(({"keep": wrong}, "keep must be one pattern of names") for wrong in (None, 3, [1], b"x")),
        *(({"seed": wrong}, "seed must be an integer") for wrong in (None, "x", float("nan"), 1.5, True, 1 << 64)),
    ],
)
def test_arguments_of_wrong_types(net, options, says):
    with pytest.raises(UsageError, match=says):
        quantize_int8(net, [pictures()], **options)


@pytest.mark.parametrize("seed", [-(1 << 63), (1 << 64) - 1])
def test_every_seed_of_64_bits_will_do(net, seed):
    assert quantize_int8(net, [pictures()], feedback=True, seed=seed).weights


def test_lazy_modules_are_told_to_be_called_first():
    with pytest.raises(UnsupportedTypeError, match=r"^0\.weight: .*lazy; call the model once"):
        quantize_int8(nn.Sequential(nn.LazyLinear(3)), static=False)


@pytest.mark.parametrize("path", [None, 3, b"x", []])
def test_what_is_no_path(net, path):
    with pytest.raises(UsageError, match=r"expected the path of a \.tsr file"):
        load_int8(path, net)


@pytest.mark.parametrize("options", [{"train": LearnedSteps()}, {"activations": QuantizeInputs()}])
def test_networks_of_open_sessions_are_refused(options):
    model = nn.Sequential(nn.Linear(4, 3))
    representation = Quantize(bits=4) if "train" in options else None
    session = tersor.prepare(
        model, [tersor.Rule("0.weight", representation, **options)], optimizer=torch.optim.SGD(model.parameters(), 0.1)
    )
    with pytest.raises(UsageError, match=r"^0: is being trained in a session; finalize the session first"):
        quantize_int8(model, [torch.randn(5, 4)])
    session.finalize()
    assert len(quantize_int8(model, [torch.randn(5, 4)]).weights) == 1


def test_one_pattern_is_enough(net):
    assert set(quantize_int8(net, [pictures()], keep="head").floats) == {"head"}
