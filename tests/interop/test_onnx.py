import importlib

import numpy as np
import pytest
import torch

from tersor.errors import InputError, MismatchError, MissingExtraError, UsageError
from tersor.interop import from_state_dict, open_checkpoint, write_checkpoint
from tersor.interop.memory import StateDict

from .helpers import assert_same, convert, random_tensor

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

FLOAT_TYPES = {
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.float8_e4m3fn: TensorProto.FLOAT8E4M3FN,
    torch.float8_e4m3fnuz: TensorProto.FLOAT8E4M3FNUZ,
    torch.float8_e5m2: TensorProto.FLOAT8E5M2,
    torch.float8_e5m2fnuz: TensorProto.FLOAT8E5M2FNUZ,
}
PLAIN_TYPES = {
    torch.float64: TensorProto.DOUBLE,
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.int16: TensorProto.INT16,
    torch.int8: TensorProto.INT8,
    torch.uint64: TensorProto.UINT64,
    torch.uint32: TensorProto.UINT32,
    torch.uint16: TensorProto.UINT16,
    torch.uint8: TensorProto.UINT8,
    torch.bool: TensorProto.BOOL,
    torch.complex64: TensorProto.COMPLEX64,
    torch.complex128: TensorProto.COMPLEX128,
}


def model_of(initializers, nodes=None, **options):
    """y = x @ w, with `initializers` (w among them) beside."""
    nodes = nodes or [helper.make_node("MatMul", ["x", "w"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])
    graph = helper.make_graph(nodes, "g", [x], [y], initializers, doc_string="kept")
    opset = [helper.make_opsetid("", 19)]
    model = helper.make_model(graph, producer_name="test", opset_imports=opset, **options)
    model.metadata_props.add(key="author", value="nobody")
    return model


def weight(seed=0):
    return numpy_helper.from_array(np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32), "w")


def run(path, **inputs):
    return ReferenceEvaluator(str(path)).run(None, inputs or {"x": np.arange(8, dtype=np.float32).reshape(2, 4)})


def without_data(model):
    for proto in model.graph.initializer:
        for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            proto.ClearField(field)
        proto.ClearField("external_data")
        proto.ClearField("data_location")
    return model


def test_model_comes_back_valid_and_computes_the_same(tmp_path):
    onnx.save(model_of([weight()]), tmp_path / "a.onnx")
    convert(tmp_path / "a.onnx", tmp_path / "b.onnx")
    onnx.checker.check_model(str(tmp_path / "b.onnx"), full_check=True)
    np.testing.assert_array_equal(run(tmp_path / "a.onnx"), run(tmp_path / "b.onnx"))
    assert onnx.load(tmp_path / "b.onnx") == onnx.load(tmp_path / "a.onnx")


def test_the_attachment_holds_no_weights(tmp_path):
    big = numpy_helper.from_array(np.random.default_rng(0).normal(size=(100, 100)), "big")
    onnx.save(model_of([weight(), big]), tmp_path / "a.onnx")
    with open_checkpoint(tmp_path / "a.onnx") as checkpoint:
        assert len(checkpoint.info.attachments["onnx.model"]) < 1000
        assert [t.name for t in checkpoint.info.tensors] == ["w", "big"]


@pytest.mark.parametrize("dtype", [*PLAIN_TYPES, *FLOAT_TYPES], ids=str)
@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 2)], ids=str)
def test_every_dtype_raw_and_in_typed_fields(tmp_path, dtype, raw, shape):
    tensor = random_tensor(dtype, shape, 3)
    if dtype.is_floating_point or dtype.is_complex:
        tensor = torch.arange(tensor.numel(), dtype=torch.float32).sub(2).reshape(shape).to(dtype)
    code = (PLAIN_TYPES | FLOAT_TYPES)[dtype]
    if raw:
        proto = helper.make_tensor("t", code, shape, tensor.reshape(-1).view(torch.uint8).numpy().tobytes(), raw=True)
    else:
        values = tensor.reshape(-1)
        proto = helper.make_tensor("t", code, shape, (values.float() if dtype in FLOAT_TYPES else values).tolist())
        assert not proto.HasField("raw_data")
    onnx.save(model_of([weight(), proto]), tmp_path / "a.onnx")
    with open_checkpoint(tmp_path / "a.onnx") as checkpoint:
        assert_same(checkpoint.read("t"), tensor)
        write_checkpoint(checkpoint, tmp_path / "b.onnx")
    a, b = onnx.load(tmp_path / "a.onnx"), onnx.load(tmp_path / "b.onnx")
    np.testing.assert_array_equal(
        numpy_helper.to_array(a.graph.initializer[1]), numpy_helper.to_array(b.graph.initializer[1])
    )
    assert without_data(a) == without_data(b)


def test_types_that_torch_lacks_stay_in_the_graph(tmp_path):
    text = helper.make_tensor("text", TensorProto.STRING, [1], [b"hello"])
    nibbles = helper.make_tensor("nibbles", TensorProto.INT4, [3], [1, -2, 3])
    onnx.save(model_of([weight(), text, nibbles]), tmp_path / "a.onnx")
    with open_checkpoint(tmp_path / "a.onnx") as checkpoint:
        assert [t.name for t in checkpoint.info.tensors] == ["w"]
    convert(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert onnx.load(tmp_path / "b.onnx") == onnx.load(tmp_path / "a.onnx")


def test_external_data_become_internal(tmp_path):
    nibbles = helper.make_tensor("nibbles", TensorProto.UINT4, [4], bytes([0x21, 0x43]), raw=True)
    model = model_of([weight(), nibbles])
    onnx.save(model_of([weight(), nibbles]), tmp_path / "inside.onnx")
    (tmp_path / "a").mkdir()
    onnx.save(model, tmp_path / "a" / "a.onnx", save_as_external_data=True, size_threshold=0, location="w.data")
    assert len(onnx.load(tmp_path / "a" / "a.onnx", load_external_data=False).graph.initializer[0].external_data)
    convert(tmp_path / "a" / "a.onnx", tmp_path / "b.onnx")
    assert onnx.load(tmp_path / "b.onnx", load_external_data=False) == onnx.load(tmp_path / "inside.onnx")
    np.testing.assert_array_equal(run(tmp_path / "a" / "a.onnx"), run(tmp_path / "b.onnx"))


def external(location, offset=None, length=None):
    proto = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 3], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            proto.external_data.add(key=key, value=str(value))
    return proto


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (external("../secret"), "outside"),
        (external("/etc/passwd"), "outside"),
        (external("link"), "outside"),
        (external(""), "outside"),
        (external("."), "outside"),
        (external("a\0b"), "outside"),
        (external("w.data", -4, 48), "beyond the end"),
        (external("w.data", 8, 48), "beyond the end"),
        (external("w.data", "x", 48), "proper offset"),
        (external("w.data", 0, 44), "takes 48 bytes, 44 found"),
        (external("w.data", 4), "takes 48 bytes, 44 found"),
        (external("missing"), "cannot be read"),
    ],
)
def test_external_data_that_lie_elsewhere(tmp_path, proto, message):
    (tmp_path / "a").mkdir()
    (tmp_path / "secret").write_bytes(bytes(48))
    (tmp_path / "a" / "w.data").write_bytes(bytes(48))
    (tmp_path / "a" / "link").symlink_to(tmp_path / "secret")
    path = tmp_path / "a" / "a.onnx"
    path.write_bytes(model_of([proto]).SerializeToString())
    with pytest.raises(InputError, match=message):
        open_checkpoint(path)


def test_initializers_of_sub_graphs_and_large_constants(tmp_path):
    inner = [numpy_helper.from_array(np.full((4, 3), value, np.float32), "w") for value in (1.0, 2.0)]
    y = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    branches = [
        helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["z"])], f"b{i}", [], y, [w])
        for i, w in enumerate(inner)
    ]
    large = numpy_helper.from_array(np.arange(1024, dtype=np.float32))
    small = numpy_helper.from_array(np.array([True])[0:1].reshape(()))
    nodes = [
        helper.make_node("Constant", [], ["large"], value=large),
        helper.make_node("Constant", [], ["which"], value=small),
        helper.make_node("If", ["which"], ["y"], name="choose", then_branch=branches[0], else_branch=branches[1]),
    ]
    onnx.save(model_of([], nodes), tmp_path / "a.onnx")
    with open_checkpoint(tmp_path / "a.onnx") as checkpoint:
        assert {t.name for t in checkpoint.info.tensors} == {
            "large",
            "choose/then_branch/w",
            "choose/else_branch/w",
        }
        assert checkpoint.read("choose/else_branch/w").sum() == 24
    convert(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert onnx.load(tmp_path / "b.onnx") == onnx.load(tmp_path / "a.onnx")
    np.testing.assert_array_equal(run(tmp_path / "a.onnx"), run(tmp_path / "b.onnx"))


def test_changed_values_are_written(tmp_path):
    onnx.save(model_of([weight()]), tmp_path / "a.onnx")
    with open_checkpoint(tmp_path / "a.onnx") as checkpoint:
        changed = StateDict({"w": torch.ones(4, 3)}, checkpoint.info.attachments, "onnx")
    write_checkpoint(changed, tmp_path / "b.onnx")
    np.testing.assert_array_equal(run(tmp_path / "b.onnx")[0], [[6.0] * 3, [22.0] * 3])


@pytest.mark.parametrize("tensors", [{}, {"w": torch.ones(3, 4)}, {"w": torch.ones(4, 3).half()}])
def test_tensors_that_do_not_fit_the_graph(tmp_path, tensors):
    onnx.save(model_of([weight()]), tmp_path / "a.onnx")
    with open_checkpoint(tmp_path / "a.onnx") as checkpoint:
        attachments = checkpoint.info.attachments
    with pytest.raises(MismatchError, match=r"'w'.*\(4, 3\)"):
        write_checkpoint(StateDict(tensors, attachments, "onnx"), tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()


def test_only_onnx_sources_are_written(tmp_path):
    with pytest.raises(UsageError, match=r"graph of an ONNX source.*state_dict.*safetensors"):
        write_checkpoint(from_state_dict({"a": torch.ones(1)}), tmp_path / "x.onnx")


def test_models_above_the_limit_are_refused(tmp_path):
    onnx.save(model_of([weight()]), tmp_path / "a.onnx")
    with open_checkpoint(tmp_path / "a.onnx") as checkpoint:
        attachments = checkpoint.info.attachments
    huge = StateDict({"w": torch.zeros(1).expand(2**30)}, attachments, "onnx")
    with pytest.raises(UsageError, match="at most 2 GB"):
        write_checkpoint(huge, tmp_path / "b.onnx")


@pytest.mark.parametrize("data", [b"\xff" * 100, b"\x08\x09", b"hello"])
def test_damaged_model(tmp_path, data):
    (tmp_path / "x.onnx").write_bytes(data)
    with pytest.raises(InputError, match=r"x\.onnx.*ONNX"):
        open_checkpoint(tmp_path / "x.onnx")


def test_name_that_is_not_text(tmp_path):
    data = model_of([weight()]).SerializeToString()
    assert data.count(b"\x01wJ") == 1
    (tmp_path / "x.onnx").write_bytes(data.replace(b"\x01wJ", b"\x01\xffJ"))
    with pytest.raises(InputError, match="not UTF-8"):
        open_checkpoint(tmp_path / "x.onnx")


@pytest.mark.parametrize("dims", [[5, 3], [-4, -3], [2**62, 2**62], [0, 2**40, 2**40]])
def test_shape_that_does_not_fit_the_data(tmp_path, dims):
    proto = weight()
    del proto.dims[:]
    proto.dims.extend(dims)
    (tmp_path / "x.onnx").write_bytes(model_of([proto]).SerializeToString())
    with pytest.raises(InputError, match=r"x\.onnx.*'w'.*shape"):
        open_checkpoint(tmp_path / "x.onnx")


def test_damaged_attachment(tmp_path):
    with pytest.raises(InputError, match=r"attachment 'onnx\.model'"):
        write_checkpoint(StateDict({}, {"onnx.model": b"\xff\xff"}, "onnx"), tmp_path / "x.onnx")


@pytest.mark.parametrize(("name", "extra"), [("x.onnx", "onnx"), ("x.gguf", "gguf")])
def test_missing_package(tmp_path, monkeypatch, name, extra):
    real = importlib.import_module

    def missing(module, *arguments):
        if module == extra:
            raise ImportError(module)
        return real(module, *arguments)

    monkeypatch.setattr(importlib, "import_module", missing)
    (tmp_path / name).write_bytes(b"GGUF" if extra == "gguf" else b"\x08")
    with pytest.raises(MissingExtraError, match=rf"pip install 'tersor\[{extra}\]'"):
        open_checkpoint(tmp_path / name)
