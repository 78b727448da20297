import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from tersor.errors import InputError, OutputError, TersorWarning
from tersor.interop import from_state_dict, open_checkpoint, write_checkpoint
from tersor.interop.memory import StateDict

from .helpers import assert_holds, assert_same_nest, convert

CONFIG = b'{"model_type": "tiny"}\n'


def shards():
    torch.manual_seed(0)
    first = {"a.weight": torch.randn(4, 3), "b.weight": torch.randn(5).bfloat16()}
    return {
        "model-00001-of-00002.safetensors": first,
        "model-00002-of-00002.safetensors": {"c": torch.arange(6)},
    }


def index_of(parts):
    weight_map = {name: shard for shard, tensors in parts.items() for name in tensors}
    return {"metadata": {"total_size": 106}, "weight_map": weight_map}


def write_shards(folder, parts, index_name="model.safetensors.index.json", **style):
    folder.mkdir(parents=True, exist_ok=True)
    for shard, tensors in parts.items():
        if shard.endswith(".bin"):
            torch.save(tensors, folder / shard)
        else:
            save_file(tensors, folder / shard, metadata={"format": "pt"})
    style = style or {"indent": 2, "sort_keys": True}
    (folder / index_name).write_text(json.dumps(index_of(parts), **style) + "\n")
    (folder / "config.json").write_bytes(CONFIG)


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "style", [{"indent": 2, "sort_keys": True}, {"indent": 4}, {"separators": (",", ":")}], ids=str
)
def test_sharded_folder_comes_back_byte_for_byte(tmp_path, style):
    source = tmp_path / "source"
    write_shards(source, shards(), **style)
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text("{}")
    (source / "tokenizer.model").write_bytes(bytes(range(256)))
    (source / "README.md").write_text("ü")
    convert(source, tmp_path / "copy")
    assert files(tmp_path / "copy") == files(source)
    assert_holds(source, {name: t for part in shards().values() for name, t in part.items()})


def test_index_is_kept_short_if_it_can_be_made_again(tmp_path):
    write_shards(tmp_path / "a", shards())
    with open_checkpoint(tmp_path / "a") as checkpoint:
        layout = json.loads(checkpoint.info.attachments["huggingface.layout"])
    assert layout["indexes"] == [{"path": "model.safetensors.index.json", "metadata": {"total_size": 106}}]


def test_single_file_folder_comes_back(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    save_file({"w": torch.randn(3)}, source / "model.safetensors")
    (source / "config.json").write_bytes(CONFIG)
    convert(source, tmp_path / "copy")
    assert files(tmp_path / "copy") == files(source)


@pytest.mark.parametrize("sharded", [True, False])
def test_torch_weights_come_back(tmp_path, sharded):
    source = tmp_path / "source"
    w = torch.randn(3)
    parts = {"pytorch_model-1.bin": {"a": w, "tied": w}, "pytorch_model-2.bin": {"b": torch.ones(2)}}
    if sharded:
        write_shards(source, parts, "pytorch_model.bin.index.json")
    else:
        source.mkdir()
        parts = {"pytorch_model.bin": parts["pytorch_model-1.bin"]}
        torch.save(parts["pytorch_model.bin"], source / "pytorch_model.bin")
    convert(source, tmp_path / "copy")
    assert sorted(files(tmp_path / "copy")) == sorted(files(source))
    for name, tensors in parts.items():
        loaded = torch.load(tmp_path / "copy" / name, weights_only=True)
        assert_same_nest(loaded, tensors)
        if "tied" in loaded:
            assert loaded["a"].data_ptr() == loaded["tied"].data_ptr()


def test_weights_in_sub_folders(tmp_path):
    source = tmp_path / "source"
    write_shards(source, shards())
    write_shards(source / "2_Dense", {"model.safetensors": {"linear.weight": torch.ones(2, 2)}}, "unused.json")
    with open_checkpoint(source) as checkpoint:
        assert "2_Dense/linear.weight" in [t.name for t in checkpoint.info.tensors]
    convert(source, tmp_path / "copy")
    assert files(tmp_path / "copy") == files(source)


def test_what_is_left_behind_is_named_once(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    save_file({"w": torch.randn(3)}, source / "model.safetensors")
    left = [
        "pytorch_model.bin",
        "tf_model.h5",
        "flax_model.msgpack",
        "rust_model.ot",
        "optimizer.pt",
        "x.gguf",
    ]
    for name in [*left, ".gitattributes", "training_args.bin"]:
        (source / name).write_bytes(b"x")
    for name in [".git", ".cache", "onnx", "checkpoint-500"]:
        (source / name).mkdir()
        (source / name / "model.onnx").write_bytes(b"x")
    with pytest.warns(TersorWarning) as warned:
        checkpoint = open_checkpoint(source)
    assert len(warned) == 1
    text = str(warned[0].message)
    assert all(name in text for name in [*left, "onnx/model.onnx", "checkpoint-500/"])
    assert ".git" not in text
    with checkpoint:
        kept = [name for name in checkpoint.info.attachments if name.startswith("file:")]
    assert kept == ["file:training_args.bin"]


def test_nothing_left_behind_no_warning(tmp_path):
    write_shards(tmp_path / "a", shards())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_checkpoint(tmp_path / "a").close()


def test_other_sources_become_model_safetensors_alone(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "folder")
    assert sorted(files(tmp_path / "folder")) == ["model.safetensors"]
    assert load_file(tmp_path / "folder" / "model.safetensors")["w"].sum() == 3
    save_file({"w": torch.ones(3)}, tmp_path / "b.safetensors", metadata={"format": "pt", "x": "y"})
    convert(tmp_path / "b.safetensors", tmp_path / "other")
    assert (tmp_path / "other" / "model.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_folder_as_one_safetensors_file(tmp_path):
    write_shards(tmp_path / "a", shards())
    convert(tmp_path / "a", tmp_path / "x.safetensors")
    assert_holds(tmp_path / "x.safetensors", {name: t for part in shards().values() for name, t in part.items()})


def test_index_that_names_a_missing_shard(tmp_path):
    write_shards(tmp_path / "a", shards())
    (tmp_path / "a" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-00002-of-00002\.safetensors' is missing"):
        open_checkpoint(tmp_path / "a")


def test_index_that_names_a_missing_tensor(tmp_path):
    write_shards(tmp_path / "a", shards())
    index = index_of(shards())
    index["weight_map"]["gone"] = "model-00001-of-00002.safetensors"
    (tmp_path / "a" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"tensor 'gone' is not in shard"):
        open_checkpoint(tmp_path / "a")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../x.safetensors"}}']
)
def test_damaged_index(tmp_path, text):
    write_shards(tmp_path / "a", shards())
    (tmp_path / "a" / "model.safetensors.index.json").write_text(text)
    with pytest.raises(InputError, match=r"index\.json"):
        open_checkpoint(tmp_path / "a")


def test_folder_without_weights(tmp_path):
    with pytest.raises(InputError, match="no weights"):
        open_checkpoint(tmp_path)


def test_several_weight_files_without_index(tmp_path):
    for name in ("one.safetensors", "two.safetensors"):
        save_file({"w": torch.ones(1)}, tmp_path / name)
    with pytest.raises(InputError, match="several weight files"):
        open_checkpoint(tmp_path)


def write_hostile(tmp_path, attachments):
    inner = tmp_path / "inner"
    inner.mkdir()
    checkpoint = StateDict({"w": torch.ones(1)}, attachments, "huggingface")
    write_checkpoint(checkpoint, inner / "out")


@pytest.mark.parametrize(
    "path",
    [
        *(
            "../evil",
            "/etc/evil",
            "a/../../evil",
            "C:evil",
            "C:/evil",
            "..\\evil",
            "a\0b",
            "",
            ".",
            "a//b",
            "a/",
        ),
        *(".git/hooks/post-checkout", "a/.hidden", "x" * 256, "a\nb", "~/../x"),
    ],
)
def test_attachment_that_leaves_the_folder(tmp_path, path):
    with pytest.raises(InputError, match="refused"):
        write_hostile(tmp_path, {f"file:{path}": b"x"})
    assert [p.name for p in tmp_path.rglob("*")] == ["inner"]


@pytest.mark.parametrize(
    "attachments",
    [
        {"file:model.safetensors": b"x"},
        {"file:a": b"x", "file:a/b": b"x"},
        {"file:model.safetensors/b": b"x"},
    ],
)
def test_attachment_in_the_way_of_another_file(tmp_path, attachments):
    with pytest.raises(InputError, match=r"occurs twice|a file and a folder|overwrite"):
        write_hostile(tmp_path, attachments)


def layout(*weights, indexes=()):
    entries = [{"path": path, "tensors": count, "attachments": {}} for path, count in weights]
    return {"huggingface.layout": json.dumps({"weights": entries, "indexes": list(indexes)}).encode()}


@pytest.mark.parametrize(
    "attachments",
    [
        layout(("../x.safetensors", 1)),
        layout(("x.safetensors", 1), indexes=[{"path": "../i.json", "metadata": {}}]),
        layout(("x.safetensors", 1), indexes=[{"path": "x.safetensors", "metadata": {}}]),
        layout(("x.safetensors", 1), indexes=[{"path": "i.json", "text": "{"}]),
        layout(("x.safetensors", 1), ("x.safetensors", 0)),
        {"huggingface.layout": b"\xff"},
        {"huggingface.layout": b"[]"},
        {"huggingface.layout": b"[" * 10**6},
        layout(("x.safetensors", 1)) | {"file:x.safetensors": b"x"},
    ],
)
def test_hostile_layout(tmp_path, attachments):
    with pytest.raises(InputError, match=r"attachment '(huggingface\.layout|file:)"):
        write_hostile(tmp_path, attachments)
    assert [p.name for p in tmp_path.rglob("*")] == ["inner"]


@pytest.mark.parametrize(
    "weights",
    [[("a.safetensors", 2)], [("a.safetensors", 0)], [("a.safetensors", -1)], [("sub/a.safetensors", 1)]],
)
def test_layout_of_other_tensors_is_not_used(tmp_path, weights):
    write_hostile(tmp_path, layout(*weights))
    assert sorted(files(tmp_path)) == ["inner/out/model.safetensors"]


def test_existing_folder_is_not_replaced_without_force(tmp_path):
    (tmp_path / "out").mkdir()
    checkpoint = from_state_dict({"w": torch.ones(1)})
    write_checkpoint(checkpoint, tmp_path / "out")  # an empty folder is as good as none
    (tmp_path / "out" / "more.txt").write_text("of the old model")
    with pytest.raises(OutputError, match="exists"):
        write_checkpoint(checkpoint, tmp_path / "out")
    write_checkpoint(checkpoint, tmp_path / "out", force=True)
    assert sorted(files(tmp_path / "out")) == ["model.safetensors"]
