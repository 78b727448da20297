import pytest
import torch
from torch import Tensor, nn

from tests.structure.shrinking import check, members, reasons

ROWS = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))


class Rms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.RMSNorm(8), Rms(), nn.LayerNorm(8, bias=False)])
def test_statistics_over_the_channels_kept(norm: nn.Module) -> None:
    groups = check(nn.Sequential(nn.Linear(5, 8), nn.GELU(), norm, nn.Linear(8, 3)), ROWS)
    (only,) = groups.groups
    assert only.normalised and ("2.weight", 0) in members(only) and only.units == 8


@pytest.mark.parametrize("spread", ["var", "std", "var_mean"])
def test_means_and_variances_of_channels(spread: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            moments = getattr(torch, spread)(x, -1, keepdim=True)
            moments = moments[0] + moments[1] if isinstance(moments, tuple) else moments
            return self.b(x * moments) + x.mean(-1, keepdim=True)

    assert check(Net(), ROWS).groups[0].normalised


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm(groups: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(groups, 8), nn.Conv2d(8, 2, 1))
    found = check(model, torch.randn(2, 3, 4, 4))
    assert found.groups[0].units == 8 // groups and found.groups[0].normalised


def test_groups_of_one_channel_are_left_alone() -> None:
    found = check(nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(8, 8), nn.Conv2d(8, 2, 1)), torch.randn(2, 3, 4, 4))
    assert found.groups == () and "one unit" in reasons(found)["0.weight", 0]


def test_sums_of_what_becomes_zero() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x))
            return self.b(x) + x.sum(-1, keepdim=True) + x.norm(dim=-1, keepdim=True)

    groups = check(Net(), ROWS)
    assert groups.groups[0].units == 8 and not groups.groups[0].normalised


def test_norm_over_channels_and_pixels_and_batch_norm_of_rows() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    assert ("1.running_mean", 0) in members(check(model, ROWS).groups[0])
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.LayerNorm((8, 4, 4)), nn.Conv2d(8, 2, 1))
    assert ("1.weight", 0) in members(check(model, torch.randn(2, 3, 4, 4)).groups[0])
