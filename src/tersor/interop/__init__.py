"""Checkpoints in and out: safetensors, torch files, Hugging Face folders, npz, ONNX and GGUF."""

from tersor.interop.checkpoint import Checkpoint, CheckpointInfo, Grid, TensorInfo
from tersor.interop.dispatch import format_of, open_checkpoint, write_checkpoint
from tersor.interop.memory import detect_ties, from_state_dict

__all__ = [
    "Checkpoint",
    "CheckpointInfo",
    "Grid",
    "TensorInfo",
    "detect_ties",
    "format_of",
    "from_state_dict",
    "open_checkpoint",
    "write_checkpoint",
]
