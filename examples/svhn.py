"""Street View House Numbers (Netzer et al. 2011), cropped digits, from the `.mat` files as they are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.training import Images
from tersor.errors import InputError, MissingExtraError


def svhn(path: Path) -> Images:
    """Images float32 (N, 3, 32, 32), each channel normalised, and labels int64 (N,), of `train_32x32.mat` or alike.

    The file holds X, uint8 (32, 32, 3, N), and y, (N, 1), where 10 stands for the digit 0. InputError for other files,
    MissingExtraError without scipy.
    """
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise MissingExtraError("SVHN comes as .mat files; install scipy to read them") from error
    try:
        content = loadmat(path, variable_names=["X", "y"])
        pixels, classes = np.asarray(content["X"]), np.asarray(content["y"]).reshape(-1)
    except (MatReadError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a .mat file of SVHN with X and y: {error}") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape != (32, 32, 3, classes.size):
        found = f"{pixels.dtype} {pixels.shape} and {classes.size} labels"
        raise InputError(f"{path}: X must be uint8 (32, 32, 3, N) with N labels, got {found}")
    images = torch.from_numpy(pixels.transpose(3, 2, 0, 1).copy()).float() / 255
    mean, std = images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True)
    return (images - mean) / std.clamp(min=1e-6), torch.from_numpy(classes.astype(np.int64)) % 10
