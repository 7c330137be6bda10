"""Where learning runs."""

import torch

from passes.base import Device
from passes.errors import QuantizationError

__all__ = ["find_device"]


def find_device(chosen: Device, what: str) -> torch.device:
    """The device; auto: a CUDA device if there is one.

    Raises:
        QuantizationError: cuda is asked for and there is none; names ``what`` asked.
    """
    if chosen == "cuda" and not torch.cuda.is_available():
        raise QuantizationError(f"{what}: torch finds no CUDA device; use `device='cpu'` or `device='auto'`")
    if chosen == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(chosen)
