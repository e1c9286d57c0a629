"""Opens a file of tensors by its suffix."""

from __future__ import annotations

from pathlib import Path

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.models.ckpt_format import read_ckpt_index
from mindrlhf_lite.models.safetensors_format import read_header
from mindrlhf_lite.models.tensor_files import TensorFile


def open_tensor_file(path: Path) -> TensorFile:
    """Raises ValueError as `read_header` and `read_ckpt_index`, or for another suffix."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return TensorFile(path, read_header(path))
    if path.suffix == ".ckpt":
        return TensorFile(path, read_ckpt_index(path))
    raise UserError(f"{path}: neither .safetensors nor .ckpt")
