"""Checkpoints into networks and back: prefixes, ties, what is missing, unexpected or of another shape, and dtypes."""

import pytest
import torch
from torch import nn

from tersor.compress import compress
from tersor.container.writer import Entry
from tersor.errors import MismatchError, UsageError
from tersor.interop import from_state_dict
from tersor.matching import as_checkpoint, common_prefix, left_for_tensors, load_weights
from tersor.model import CompressedModel
from tersor.quantization import Binarize, Cast, Lossless, Palettize, Quantize, Ternarize
from tersor.storage import save
from tests.strategies import same_bits


class Tied(nn.Module):
    """An embedding that is the head, too."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def state(model=None, prefix=""):
    torch.manual_seed(1)
    return {prefix + name: torch.randn(v.shape).to(v.dtype) for name, v in (model or net()).state_dict().items()}


def holds(model, values):
    return all(torch.equal(v, values[name].to(v.dtype)) for name, v in model.state_dict().items() if name in values)


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod.", "a.b.c."])
def test_a_prefix_of_the_file_is_left_out(prefix):
    model = net()
    match = load_weights(from_state_dict(state(prefix=prefix)), model)
    assert holds(model, state())
    assert match.names == {prefix + name: name for name in state()}
    assert match.extra == ()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_prefix_of_the_model_is_left_out(prefix):
    model = Wrapped(net())
    match = load_weights(from_state_dict(state(prefix=prefix)), model)
    assert holds(model.inner, state())
    assert match.names[f"{prefix}0.weight"] == "inner.0.weight"


def test_a_prefix_that_not_all_names_have_is_none():
    values = state(prefix="module.") | {"0.weight": torch.zeros(4, 3, 3, 3)}
    with pytest.raises(MismatchError, match=r"missing in the file: .*unexpected in the file: .*module\.0\.weight"):
        load_weights(from_state_dict(values), net())


def test_common_prefixes():
    assert common_prefix(["a.b.c", "a.b.d"]) == "a.b."
    assert common_prefix(["a.b.c", "a.bb.d"]) == "a."
    assert common_prefix(["a.b"]) == "a."
    assert common_prefix(["ab", "ac"]) == ""
    assert common_prefix([]) == ""


def test_values_are_cast_to_the_models_dtype():
    model = net().double()
    load_weights(
        from_state_dict({name: v.half() if v.is_floating_point() else v for name, v in state().items()}), model
    )
    assert model[0].weight.dtype == torch.float64
    assert torch.equal(model[0].weight, state()["0.weight"].half().double())


def test_what_does_not_fit_is_named_and_nothing_changes():
    model = net()
    before = {name: v.clone() for name, v in model.state_dict().items()}
    values = state()
    del values["3.bias"], values["1.running_mean"]
    values |= {"3.weight": torch.zeros(2, 5), **{f"other.{i}": torch.zeros(1) for i in range(7)}}
    with pytest.raises(MismatchError) as raised:
        load_weights(from_state_dict(values), model)
    text = str(raised.value)
    assert "missing in the file: 1.running_mean, 3.bias" in text
    assert "unexpected in the file: other.0, other.1, other.2, other.3, other.4 and 2 more" in text
    assert "of another shape: 3.weight (file (2, 5), model (2, 4))" in text
    assert "Give the model that the weights are of" in text
    assert all(torch.equal(v, before[name]) for name, v in model.state_dict().items())


def test_counters_may_be_missing_and_integers_superfluous():
    values = state()
    del values["1.num_batches_tracked"]
    values["position_ids"] = torch.arange(5)
    model = net()
    match = load_weights(from_state_dict(values), model)
    assert holds(model, values)
    assert match.extra == ("position_ids",)


def test_names_that_a_class_ignores_are_kept():
    model = net()
    model._keys_to_ignore_on_load_unexpected = [r"rotary\.inv_freq"]
    match = load_weights(from_state_dict(state() | {"rotary.inv_freq": torch.ones(3)}), model)
    assert match.extra == ("rotary.inv_freq",)


def test_a_tied_tensor_may_be_missing():
    values = state(Tied())
    del values["head.weight"]
    model = Tied()
    match = load_weights(from_state_dict(values), model)
    assert torch.equal(model.head.weight, values["embed.weight"])
    assert "head.weight" not in match.names


def test_a_tied_tensor_may_be_there_twice_if_it_is_the_same():
    values = state(Tied())
    values["head.weight"] = values["embed.weight"].clone()
    load_weights(from_state_dict(values), Tied())
    values["head.weight"] = values["embed.weight"] + 1
    with pytest.raises(
        MismatchError, match=r"one tensor in the model, but two in the file: embed\.weight and head\.we"
    ):
        load_weights(from_state_dict(values), Tied())


def test_a_tie_of_the_file_alone_fills_both():
    model = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    shared = torch.randn(3, 3)
    load_weights(from_state_dict({"a.weight": shared, "b.weight": shared}), model)
    assert torch.equal(model["a"].weight, shared)
    assert torch.equal(model["b"].weight, shared)


def test_back_in_the_files_names_order_and_dtypes(tmp_path):
    values = {name: v.half() if v.is_floating_point() else v for name, v in state(prefix="module.").items()}
    values = dict(reversed(values.items())) | {"module.position_ids": torch.arange(5)}
    checkpoint = from_state_dict(values, {"note": b"hello"})
    model = net()
    match = load_weights(checkpoint, model)
    result = as_checkpoint(compress(model, bits=6), checkpoint, match, 1234)
    assert [entry.name for entry in result.entries] == list(values)
    assert result.attachments == {"note": b"hello"}
    assert result.original_bytes == 1234
    back = result.state_dict()
    assert {name: (v.dtype, v.shape) for name, v in back.items()} == {n: (v.dtype, v.shape) for n, v in values.items()}
    assert torch.equal(back["module.position_ids"], torch.arange(5))
    wanted = compress(model, bits=6).state_dict()
    assert all(torch.equal(back[f"module.{n}"], v.to(back[f"module.{n}"].dtype)) for n, v in wanted.items())
    save(result, tmp_path / "m.tsr")


def test_ties_come_back_as_the_file_has_them():
    values = state(Tied())
    model = Tied()
    twice = from_state_dict(values | {"head.weight": values["embed.weight"].clone()})
    result = as_checkpoint(compress(model), twice, load_weights(twice, model), 1)
    head = next(entry for entry in result.entries if entry.name == "head.weight")
    assert (head.tensor, head.tied_to, head.copied) == (None, "embed.weight", True)
    tied = from_state_dict(values | {"head.weight": values["embed.weight"]})
    result = as_checkpoint(compress(model), tied, load_weights(tied, model), 1)
    head = next(entry for entry in result.entries if entry.name == "head.weight")
    assert (head.tied_to, head.copied) == ("embed.weight", False)
    only_head = from_state_dict({n: v for n, v in values.items() if n != "embed.weight"})
    match = load_weights(only_head, model)
    result = as_checkpoint(compress(model), only_head, match, 1)
    assert torch.equal(result.state_dict()["head.weight"], compress(model).state_dict()["embed.weight"])


def test_a_tie_of_the_file_that_the_model_lacks_is_undone():
    shared = torch.randn(3, 3)
    checkpoint = from_state_dict({"a.weight": shared, "b.weight": shared})
    model = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    match = load_weights(checkpoint, model)
    apart = CompressedModel((Entry("a.weight", Lossless().fit(shared)), Entry("b.weight", Lossless().fit(2 * shared))))
    back = as_checkpoint(apart, checkpoint, match, 1).state_dict()
    assert torch.equal(back["b.weight"], 2 * back["a.weight"])


CONFIGS = [Quantize(bits=4), Palettize(bits=3), Binarize(), Ternarize(), Cast("bfloat16"), Cast("float16"), Lossless()]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_representation_takes_the_files_dtype(tmp_path, config, dtype):
    values = {"weight": torch.randn(6, 8).to(dtype)}
    checkpoint = from_state_dict(values)
    model = nn.Linear(8, 6, bias=False)
    match = load_weights(checkpoint, model)
    tensor = config.fit(model.weight.detach())
    result = as_checkpoint(CompressedModel((Entry("weight", tensor),)), checkpoint, match, 1)
    assert same_bits(result.state_dict()["weight"], tensor.dequantize().to(dtype))
    save(result, tmp_path / "m.tsr")


def test_what_a_budget_leaves_for_the_network():
    model = net()
    plain = from_state_dict(state())
    assert left_for_tensors(500, plain) == left_for_tensors(500, plain, load_weights(plain, model)) == 500
    attached = {"a": torch.randn(500).numpy().tobytes()}
    more = from_state_dict(state(prefix="module.") | {"module.ids": torch.randint(1 << 40, (100,))}, attached)
    match = load_weights(more, model)
    small = compress(model)
    alone = save(small, _Null()).after
    whole = save(as_checkpoint(small, more, match, 1), _Null()).after
    assert abs(10_000 - left_for_tensors(10_000, more, match) - (whole - alone)) < 16
    with pytest.raises(UsageError, match=r"the budget of 2,000 bytes is below the 2,\d\d\d bytes"):
        left_for_tensors(2000, more, match)
    with pytest.raises(UsageError, match=r"the budget of 1,500 bytes is below the 1,\d\d\d bytes"):
        left_for_tensors(1500, more)


class _Null:
    def write(self, data):
        return len(data)
