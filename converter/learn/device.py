"""Device on which learning runs."""

import torch

from passes.base import Device
from passes.errors import QuantizationError

__all__ = ["find_device"]


def find_device(chosen: Device, what: str) -> torch.device:
    """The torch device for a setting. "auto" means a CUDA device if there is one.

    Args:
        chosen: The setting.
        what: Name of the pass. The error message starts with it.

    Raises:
        QuantizationError: The setting is "cuda", and there is no CUDA device.
    """
    if chosen == "cuda" and not torch.cuda.is_available():
        raise QuantizationError(f"{what}: torch finds no CUDA device; use `device='cpu'` or `device='auto'`")
    if chosen == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(chosen)
