"""The API in one piece: compress, save, load, inspect."""

import io
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tersor
from tersor import Palettize, Prune, Quantize, Recipe, Rule, TersorWarning
from tersor.errors import MismatchError, OutputError, UsageError
from tersor.tensors import Codebook, Dense, Uniform
from tests.strategies import same_bits


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))


def saved(compressed) -> io.BytesIO:
    file = io.BytesIO()
    tersor.save(compressed, file)
    file.seek(0)
    return file


def test_default_quantizes_weights_and_keeps_the_rest_exact():
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    compressed = tersor.compress(model)
    kinds = {entry.name: type(entry.tensor) for entry in compressed.entries}
    assert {name for name, kind in kinds.items() if kind is Uniform} == {"0.weight", "4.weight"}
    assert compressed.original_bytes == sum(v.numel() * v.element_size() for v in before.values())
    state = tersor.load(saved(compressed))
    assert list(state) == list(before)
    for name, value in before.items():
        assert same_bits(model.state_dict()[name], value), "the model was modified"
        if kinds[name] is Dense:
            assert same_bits(state[name], value)
        else:
            assert 0 < (state[name] - value).abs().max() < 0.01 * value.abs().max()
    assert all(same_bits(a, b) for a, b in zip(compressed.state_dict().values(), state.values(), strict=True))


def test_lossless_is_exact():
    model = network().to(torch.bfloat16)
    state = tersor.load(saved(tersor.compress(model.state_dict(), lossless=True)))
    assert all(same_bits(state[name], value) for name, value in model.state_dict().items())


def test_more_bits_cost_more_and_err_less():
    model, sizes, errors = network(), [], []
    for bits in (2, 4, 8):
        file = saved(tersor.compress(model, bits=bits))
        sizes.append(len(file.getvalue()))
        errors.append(float((tersor.load(file)["4.weight"] - model[4].weight.detach()).square().mean()))
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)


def test_recipes_apply():
    recipe = Recipe([Rule("*", Quantize(bits=3)), Rule("4.*", Palettize(bits=2), Prune(density=0.3))])
    compressed = tersor.compress(network(), recipe)
    tensors = {entry.name: entry.tensor for entry in compressed.entries}
    assert tensors["0.weight"].bits == 3
    assert int(tensors["4.weight"].mask.sum()) == round(0.3 * 2880)
    values = tersor.load(saved(compressed))["4.weight"]
    assert (values != 0).sum() <= round(0.3 * 2880)
    assert len(values.unique()) <= 5


def test_a_shared_codebook_is_fitted_jointly_and_stored_once():
    torch.manual_seed(0)
    state = {f"layer{i}.weight": torch.randn(64, 64) for i in range(4)}
    apart = saved(tersor.compress(state, Recipe([Rule("*", Palettize(bits=8))])))
    shared_model = tersor.compress(state, Recipe([Rule("*", Palettize(bits=8), shared=True)]))
    assert len({entry.tensor.codebook.data_ptr() for entry in shared_model.entries}) == 1
    shared = saved(shared_model)
    assert len(shared.getvalue()) < len(apart.getvalue()) - 3 * 300
    for name, value in tersor.load(shared).items():
        assert (value - state[name]).abs().mean() < 0.02
    assert isinstance(shared_model.entries[0].tensor, Codebook)


def test_tied_tensors_stay_tied():
    embedding = nn.Embedding(50, 8)
    head = nn.Linear(8, 50, bias=False)
    head.weight = embedding.weight
    model = nn.ModuleDict({"embedding": embedding, "head": head})
    state = tersor.load(saved(tersor.compress(model)))
    assert state["embedding.weight"].data_ptr() == state["head.weight"].data_ptr()


def test_nan_and_inf_stay_exact_with_a_warning():
    state = {"w": torch.randn(8, 8), "v": torch.randn(8, 8)}
    state["w"][2, 3] = float("nan")
    state["v"][0, 0] = -float("inf")
    with pytest.warns(TersorWarning) as caught:
        compressed = tersor.compress(state, threads=2)
    assert sorted(str(w.message)[:25] for w in caught) == ["tensor 'v' stays lossless", "tensor 'w' stays lossless"]
    loaded = tersor.load(saved(compressed))
    assert all(same_bits(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize("threads", [1, 3])
def test_the_file_does_not_depend_on_threads(threads):
    assert saved(tersor.compress(network(), threads=threads)).getvalue() == saved(tersor.compress(network())).getvalue()


def test_contradictions_are_refused():
    for options in ({"bits": 4, "lossless": True}, {"recipe": Recipe.default(), "bits": 3}):
        with pytest.raises(UsageError, match="exclude each other"):
            tersor.compress(network(), **options)
    with pytest.raises(UsageError, match="bits must be an integer from 1 to 16"):
        tersor.compress(network(), bits=0)
    with pytest.raises(UsageError, match=r"nn\.Module"):
        tersor.compress(3)
    with pytest.raises(UsageError, match=r"recipe must be a tersor\.Recipe, got str"):
        tersor.compress(network(), "4")
    with pytest.raises(UsageError, match="list of Rules"):
        Recipe(Rule("*", Quantize()))
    with pytest.raises(UsageError, match="threads is 0"):
        tersor.compress(network(), threads=0)


def test_threads_are_checked_before_anything_is_read():
    for options in ({"max_bytes": 500}, {"calibration": [torch.zeros(2, 2)]}):
        with pytest.raises(UsageError, match="threads is nan"):
            tersor.compress("no such file", threads=float("nan"), **options)


def test_load_into_a_module_fills_it(tmp_path):
    path = tmp_path / "net.tsr"
    tersor.save(tersor.compress(network(1)), path)
    target = network(2).half()
    state = tersor.load(path, into=target)
    assert target[0].weight.dtype == torch.float16
    assert torch.equal(target[0].weight, state["0.weight"].half())
    assert torch.equal(target[1].running_mean, state["1.running_mean"].half())


def test_load_into_a_wrong_module_names_every_fault_and_changes_nothing(tmp_path):
    path = tmp_path / "net.tsr"
    tersor.save(tersor.compress(network(1)), path)
    target = nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8), nn.Linear(4, 4))
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(MismatchError) as caught:
        tersor.load(path, into=target)
    for part in (
        "missing in the file: 2.bias, 2.weight",
        "unexpected in the file: 4.bias, 4.weight",
        "0.weight (module (8, 3, 5, 5), file (8, 3, 3, 3))",
    ):
        assert part in str(caught.value)
    assert all(same_bits(target.state_dict()[key], value) for key, value in before.items())


def test_pruning_by_channel_keeps_as_many_in_each():
    recipe = Recipe([Rule("4.weight", Quantize(bits=8), Prune(density=0.25, scope="channel"))])
    mask = next(e.tensor.mask for e in tersor.compress(network(), recipe).entries if e.name == "4.weight")
    assert mask.sum(1).tolist() == [72] * 10


def test_what_is_left_out_of_a_folder_is_not_counted(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"w": torch.randn(64, 64)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    taken = sum(path.stat().st_size for path in folder.iterdir())
    (folder / "tf_model.h5").write_bytes(b"x" * 100_000)
    with pytest.warns(TersorWarning, match=r"tf_model\.h5"):
        assert tersor.compress(folder).original_bytes == taken


def test_save_refuses_to_replace(tmp_path):
    path = tmp_path / "net.tsr"
    sizes = tersor.save(tersor.compress(network()), path)
    assert sizes.after == path.stat().st_size
    assert f"{sizes.before:,} -> {sizes.after:,} bytes" in str(sizes)
    first = path.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        tersor.save(tersor.compress(network(5)), path)
    assert path.read_bytes() == first
    tersor.save(tersor.compress(network(5)), path, force=True)
    assert path.read_bytes() != first


def test_inspect_tells_what_is_there(tmp_path):
    path = tmp_path / "net.tsr"
    tersor.save(tersor.compress(network(), Recipe([Rule("*", Quantize(bits=4), Prune(density=0.5))])), path)
    found = tersor.inspect(path)
    assert found.file_bytes == path.stat().st_size
    rows = {row.name: row for row in found.tensors}
    weight = rows["4.weight"]
    assert weight.representation == "uniform 4 bit symmetric per channel, sparse"
    assert 1 < weight.entropy < weight.bits < 4
    assert rows["1.bias"].entropy is None
    assert "content id verified" in found.checked
    assert found.overhead_bytes + found.tensor_bytes + sum(found.attachments.values()) == found.file_bytes


def test_masks_in_a_state_dict_are_told_of():
    held = tersor.prune(torch.nn.Sequential(torch.nn.Linear(8, 4)), tersor.Prune(density=0.5))
    with pytest.warns(TersorWarning, match=r"'0\.parametrizations\.weight\.0\.mask'.*finalize\(\)"):
        tersor.compress(held.model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tersor.compress(held.model)
        tersor.compress(held.finalize().state_dict())
