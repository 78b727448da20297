from __future__ import annotations

from tersor.posttraining.network import stages_of


def test_stages_are_numbered_blocks() -> None:
    names = ["conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight", "layer1.1.conv1.weight", "fc.weight"]
    assert stages_of(names, "block", 9) == (
        ("conv1.weight",),
        ("layer1.0.conv1.weight", "layer1.0.conv2.weight"),
        ("layer1.1.conv1.weight",),
        ("fc.weight",),
    )
    assert stages_of(names, "layer", 1) == tuple((name,) for name in names)
    assert stages_of(names, "off", 1) == (tuple(names),)
    attention = ["model.layers.3.self_attn.q_proj.weight", "model.layers.3.mlp.up.weight"]
    assert stages_of(attention, "block", 9) == (tuple(attention),)
    assert stages_of(["features.0.weight", "features.3.weight"], "block", 9) == (
        ("features.0.weight",),
        ("features.3.weight",),
    )


def test_many_blocks_are_measured_together() -> None:
    names = [f"blocks.{i}.conv{j}.weight" for i in range(7) for j in (1, 2)]
    stages = stages_of(names, "block", 3)
    assert [len(stage) for stage in stages] == [4, 6, 4]
    assert [name for stage in stages for name in stage] == names
