from __future__ import annotations

from tersor.posttraining.network import stages_of


def test_stages_are_numbered_blocks() -> None:
    names = ["conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight", "layer1.1.conv1.weight", "fc.weight"]
    assert stages_of(names, "block") == (
        ("conv1.weight",),
        ("layer1.0.conv1.weight", "layer1.0.conv2.weight"),
        ("layer1.1.conv1.weight",),
        ("fc.weight",),
    )
    assert stages_of(names, "layer") == tuple((name,) for name in names)
    assert stages_of(names, "off") == (tuple(names),)
    attention = ["model.layers.3.self_attn.q_proj.weight", "model.layers.3.mlp.up.weight"]
    assert stages_of(attention, "block") == (tuple(attention),)
    assert stages_of(["features.0.weight", "features.3.weight"], "block") == (
        ("features.0.weight",),
        ("features.3.weight",),
    )
