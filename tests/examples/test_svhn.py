"""The published files' form, on made data."""

import numpy as np
import pytest
import torch

from examples.svhn import svhn
from tersor.errors import InputError

savemat = pytest.importorskip("scipy.io").savemat


def test_images_and_labels(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (32, 32, 3, 7), dtype=np.uint8)
    savemat(tmp_path / "train_32x32.mat", {"X": pixels, "y": np.array([[10], [1], [2], [9], [10], [5], [3]])})
    images, labels = svhn(tmp_path / "train_32x32.mat")
    assert labels.tolist() == [0, 1, 2, 9, 0, 5, 3] and labels.dtype == torch.int64
    assert images.shape == (7, 3, 32, 32) and images.dtype == torch.float32
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    first = torch.from_numpy(pixels[:, :, 1, 4].copy()).float()
    assert torch.corrcoef(torch.stack([first.flatten(), images[4, 1].flatten()]))[0, 1] > 0.9999


@pytest.mark.parametrize(
    "content", [{"X": np.zeros((32, 32, 3, 2), np.uint8)}, {"X": np.zeros((2, 3)), "y": np.zeros((2, 1))}]
)
def test_other_files(tmp_path, content):
    savemat(tmp_path / "other.mat", content)
    with pytest.raises(InputError, match=r"other\.mat"):
        svhn(tmp_path / "other.mat")
    (tmp_path / "other.mat").write_bytes(b"no such thing")
    with pytest.raises(InputError, match=r"other\.mat"):
        svhn(tmp_path / "other.mat")
