import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersor.structure.groups import find_groups
from tersor.structure.trace import trace
from tests.structure.shrinking import check, members, named, reasons

ROWS = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))


class Between(nn.Module):
    """A linear layer, something, a linear layer that reads it."""

    def __init__(self, between, units=8, outputs=None, second=False) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(5, units), nn.Linear(units if outputs is None else outputs, 2)
        self.b = nn.Linear(5, units) if second else None
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self.a(x)) if self.b is None else self.between(self.a(x), self.b(x))
        return self.c(x)


def test_concatenation_keeps_the_parts_apart() -> None:
    groups = check(Between(lambda a, b: torch.cat([a, b], 1), outputs=16, second=True), ROWS)
    assert [members(g)["c.weight", 1] for g in groups.groups] == [(0,), (8,)]


def test_concatenation_with_a_constant() -> None:
    groups = check(Between(lambda a: torch.cat([torch.ones(3, 2), a, a], 1), outputs=18), ROWS)
    (only,) = groups.groups
    assert members(only)["c.weight", 1] == (2, 10) and only.units == 8
    assert ("c.weight", 1) in reasons(groups)


def test_stacked_tensors_shrink_together() -> None:
    groups = check(Between(lambda a, b: torch.stack([a, b], 2).sum(2), second=True), ROWS)
    assert {("a.weight", 0), ("b.weight", 0)} <= set(members(groups.groups[0]))


@pytest.mark.parametrize(
    "between",
    [
        lambda a: torch.mul(*a.chunk(2, 1)),
        lambda a: torch.mul(*a.split(a.shape[1] // 2, -1)),
        lambda a: a[:, : a.shape[1] // 2] * a[:, a.shape[1] // 2 :],
        lambda a: torch.mul(*a.unflatten(1, (2, -1)).unbind(1)),
        F.glu,
    ],
)
def test_halves_shrink_together(between) -> None:
    groups = check(Between(between, outputs=4), ROWS)
    (only,) = groups.groups
    assert only.units == 4 and members(only)["a.weight", 0] == (0, 4)


def test_every_second_position() -> None:
    groups = check(Between(lambda a: a[:, ::2] - a[:, 1::2], outputs=4), ROWS)
    assert members(groups.groups[0])["a.weight", 0] == (0, 1)


@pytest.mark.parametrize(
    ("between", "word"),
    [
        (lambda a: a[:, :3], "slice"),
        (lambda a: torch.cat(a.split([3, 5], 1), 1), "split"),
        (lambda a: a[:, 3:4] * a, "slice"),
        (lambda a: a.roll(1, 1), "roll"),
        (lambda a: a.softmax(1), "softmax"),
        (lambda a: a.sort(1)[0], "sort"),
        (lambda a: a.cumsum(1), "cumsum"),
        (lambda a: a + torch.arange(8), "add"),
        (lambda a: a.amax(1, keepdim=True) * a, "amax"),
        (lambda a: torch.fft.rfft(a).real, "fft_rfft"),
        (lambda a: a[:, torch.tensor([0, 2, 4])], "index"),
        (lambda a: torch.sigmoid(a).sum(1, keepdim=True) * a, "sum"),
        (lambda a: (a @ torch.sigmoid(a).T).softmax(1) @ torch.rand(3, 8), "matmul"),
    ],
)
def test_what_cannot_shrink_names_the_operation(between, word) -> None:
    model = Between(between)
    model.c = nn.Linear(model.between(torch.randn(3, 8)).shape[1], 2)
    groups = find_groups(trace(model, (ROWS,)))
    assert groups.groups == ()
    assert f"aten.{word}" in reasons(groups)["a.weight", 0]


def test_channel_shuffle() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 1, groups=3), nn.Conv2d(12, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.b(self.a(x))
            n, c, h, w = x.shape
            return self.c(x.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w))

    groups = check(Net(), torch.randn(2, 3, 4, 4))
    assert members(named(groups, "b.weight"))["b.weight", 0] == (0, 4, 8)
    assert members(named(groups, "b.weight"))["c.weight", 1] == (0, 1, 2)
    module = nn.Sequential(nn.Conv2d(3, 12, 1), nn.ChannelShuffle(3), nn.Conv2d(12, 2, 1))
    assert members(check(module, torch.randn(2, 3, 4, 4)).groups[0])["0.weight", 0] == (0, 4, 8)


def test_shuffle_without_groups_keeps_a_box() -> None:
    def shuffle(a: Tensor) -> Tensor:
        return a.view(3, 2, -1).transpose(1, 2).reshape(3, -1)

    groups = check(Between(shuffle), ROWS)
    assert groups.groups[0].units == 4 and members(groups.groups[0])["c.weight", 1] == (0, 1)


def test_pixel_shuffle_and_back() -> None:
    first, second, third = nn.Conv2d(3, 8, 1), nn.Conv2d(2, 3, 1), nn.Conv2d(12, 2, 1)
    model = nn.Sequential(first, nn.PixelShuffle(2), second, nn.PixelUnshuffle(2), third)
    groups = check(model, torch.randn(1, 3, 4, 4))
    assert members(groups.groups[0])["0.weight", 0] == (0, 1, 2, 3)
    assert members(groups.groups[1])["4.weight", 1] == (0, 1, 2, 3)


def test_windows_pass() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.roll(self.a(x), (1, 1), (1, 2))
            n, h, w, c = x.shape
            x = x.view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
            x = x.view(n, h // 2, w // 2, 2, 2, -1).permute(0, 1, 3, 2, 4, 5).contiguous().view(n, h, w, -1)
            return self.b(x.flatten(1, 2).transpose(1, 2).transpose(1, 2))

    assert check(Net(), torch.randn(2, 4, 4, 4)).groups[0].units == 6


def test_merging_rows_of_patches() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.b(torch.cat([x[:, i::2, j::2] for i in range(2) for j in range(2)], -1))

    assert members(check(Net(), torch.randn(2, 4, 4, 4)).groups[0])["b.weight", 1] == (0, 6, 12, 18)


def test_repeated_channels() -> None:
    groups = check(Between(lambda a: a.repeat(1, 2), outputs=16), ROWS)
    assert members(groups.groups[0])["c.weight", 1] == (0, 8)
    groups = check(Between(lambda a: a.repeat_interleave(2, 1), outputs=16), ROWS)
    assert members(groups.groups[0])["c.weight", 1] == (0, 1)
    groups = check(Between(lambda a: a[:, :, None].expand(3, a.shape[1], 2).reshape(3, -1), outputs=16), ROWS)
    assert members(groups.groups[0])["c.weight", 1] == (0, 1)


def test_masks_and_constants_of_the_same_size_follow() -> None:
    def between(a: Tensor) -> Tensor:
        a = torch.where(a > 0, a, torch.zeros_like(a)) + a.new_zeros(a.shape)
        return a.masked_fill(a > 1, 0.0).clamp(-1, 1) * torch.ones(1, 1).expand_as(a)

    assert check(Between(between), ROWS).groups[0].units == 8


def test_a_table_of_positions() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(9, 6), nn.Parameter(torch.zeros(1, 4, 6))
            self.head = nn.Linear(6, 9, bias=False)
            self.head.weight = self.words.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.gelu(self.words(x)) + self.places[:, : x.shape[1]])

    groups = check(Net(), torch.randint(0, 9, (2, 4)))
    (only,) = groups.groups
    assert set(members(only)) == {("words.weight", 1), ("head.weight", 1), ("places", 2)}
    assert only.name == "words.weight"
    assert "looked up" in reasons(groups)["head.weight", 0] or "returns" in reasons(groups)["head.weight", 0]


def test_operations_in_place() -> None:
    def between(a: Tensor) -> Tensor:
        a = a.clone()
        a.mul_(2).add_(1)
        a[
            :,
            :,
        ].relu_()
        return a

    assert check(Between(between), ROWS).groups[0].units == 8

    def written(a: Tensor) -> Tensor:
        a = a.clone()
        a[:, 2] = 1.0
        return a

    groups = find_groups(trace(Between(written), (ROWS,)))
    assert groups.groups == () and ("a.weight", 0) in reasons(groups)


def test_what_nothing_reads_is_left_alone() -> None:
    model = Between(torch.relu)
    model.spare = nn.Linear(4, 4)
    assert "depends" in reasons(check(model, ROWS))["spare.weight", 0]
