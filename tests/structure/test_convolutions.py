import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.structure.shrinking import check, members, named, reasons


class Plain(nn.Module):
    def __init__(self, conv2: nn.Module, channels: int = 8) -> None:
        super().__init__()
        self.conv1, self.bn, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), conv2
        self.head = nn.Conv2d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv2(F.relu(self.bn(self.conv1(x))))))


IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def test_two_convolutions_and_a_norm() -> None:
    groups = check(Plain(nn.Conv2d(8, 8, 3)), IMAGE)
    assert [g.name for g in groups.groups] == ["conv1.weight", "conv2.weight"]
    first = named(groups, "conv1.weight")
    assert set(members(first)) == {
        ("conv1.weight", 0), ("conv1.bias", 0), ("bn.weight", 0), ("bn.bias", 0), ("bn.running_mean", 0),
        ("bn.running_var", 0), ("conv2.weight", 1),
    }  # fmt: skip
    roles = {(m.tensor, m.dim): m.role for m in first.members}
    assert roles["conv1.weight", 0] == "output" and roles["conv2.weight", 1] == "input"
    assert roles["bn.weight", 0] == roles["conv1.bias", 0] == roles["bn.running_var", 0] == "vector"
    assert first.units == 8 and first.kind == "channel" and not first.normalised
    assert all(m.indices == tuple((i,) for i in range(8)) for m in first.members)
    assert set(reasons(groups)) == {("conv1.weight", 1), ("head.weight", 0), ("head.bias", 0)}
    assert "conv1" in reasons(groups)["conv1.weight", 1]


def test_depthwise_channels_are_one_unit() -> None:
    groups = check(Plain(nn.Conv2d(8, 8, 3, groups=8)), IMAGE)
    (only,) = groups.groups
    assert members(only)["conv2.weight", 0] == (0,) and ("conv2.weight", 1) not in members(only)


def test_depthwise_with_a_multiplier() -> None:
    groups = check(Plain(nn.Conv2d(8, 16, 3, groups=8), 16), IMAGE)
    (only,) = groups.groups
    assert members(only)["conv2.weight", 0] == (0, 1) and members(only)["head.weight", 1] == (0, 1)


def test_groups_stay_alike() -> None:
    groups = check(Plain(nn.Conv2d(8, 12, 3, groups=2), 12), IMAGE)
    first, second = groups.groups
    assert (first.units, second.units) == (4, 6)
    assert members(first)["conv1.weight", 0] == (0, 4) and members(first)["conv2.weight", 1] == (0,)
    assert members(second)["conv2.weight", 0] == (0, 6)


def test_transposed_with_and_without_groups() -> None:
    for conv in (nn.ConvTranspose2d(8, 6, 3, groups=2), nn.ConvTranspose2d(8, 6, 2, stride=2)):
        groups = check(Plain(conv, 6), IMAGE)
        assert [m.role for m in groups.groups[0].members if m.tensor == "conv2.weight"] == ["input"]
        assert [g.units for g in groups.groups] == ([4, 3] if conv.groups == 2 else [8, 6])


def test_transposed_depthwise() -> None:
    model = Plain(nn.ConvTranspose2d(8, 8, 3, groups=8))

    def patch(model: nn.Module, selection: object) -> None:
        model.conv2.groups = model.conv2.weight.shape[0]

    assert len(check(model, IMAGE, patch=patch).groups) == 1


def test_one_and_three_dimensions_unbatched() -> None:
    for conv, shape in ((nn.Conv1d, (4, 9)), (nn.Conv3d, (4, 5, 5, 5))):
        model = nn.Sequential(conv(4, 6, 3), nn.ReLU(), conv(6, 5, 1))
        groups = check(model, torch.randn(shape))
        assert [g.name for g in groups.groups] == ["0.weight"]


def test_pooling_resizing_and_dropout_pass() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Linear(6 * 4, 3)
            self.drop = nn.Dropout2d()

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(self.drop(self.a(x)), 2)
            x = F.adaptive_avg_pool2d(self.b(F.interpolate(x, scale_factor=2)), 2)
            return self.c(x.flatten(1))

    groups = check(Net(), IMAGE)
    second = named(groups, "b.weight")
    assert members(second)["c.weight", 1] == (0, 1, 2, 3) and second.units == 6


def test_residual_and_gate() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 2, 1)
            self.down, self.up = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            y = self.b(x)
            gate = torch.sigmoid(self.up(F.relu(self.down(y.mean((2, 3), keepdim=True)))))
            return self.c(F.relu_(x + y * gate))

    groups = check(Net(), IMAGE)
    assert [g.name for g in groups.groups] == ["a.weight", "down.weight"]
    assert {("up.weight", 0), ("b.weight", 0), ("b.weight", 1), ("c.weight", 1)} <= set(members(groups.groups[0]))


def test_padded_channels_stay() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.c(self.b(x) + F.pad(x, (0, 0, 0, 0, 2, 2)))

    groups = check(Net(), IMAGE)
    (only,) = groups.groups
    assert members(only)["b.weight", 0] == (2,) and only.units == 4
    assert "aten.add" in reasons(groups)["b.weight", 0]


def test_prelu_and_instance_norm() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.PReLU(6), nn.InstanceNorm2d(6, affine=True), nn.PReLU(), nn.Conv2d(6, 2, 1)
    )
    groups = check(model, IMAGE)
    assert {("1.weight", 0), ("2.weight", 0)} <= set(members(groups.groups[0])) and not groups.groups[0].normalised
