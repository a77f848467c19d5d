"""Buffers that loops over stages write to again and again: on some machines fresh memory costs more than the work."""

import threading

import torch
from torch import Tensor

_LARGEST = 64 * 2**20  #: Bytes beyond which a buffer is not kept.
_KEPT = threading.local()


def buffer(name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return this thread's buffer of a name and shape, uninitialised, in the dtype and on the device of `like`.

    It is valid until the name is asked for again.
    """
    held: dict[str, Tensor] = vars(_KEPT)
    key, size = f"{name} {like.dtype} {like.device}", torch.Size(shape).numel()
    if key in held and held[key].numel() >= size:
        return held[key][:size].view(shape)
    with torch.inference_mode(False):  # it may be written to outside of the caller's inference mode
        made = torch.empty(size, dtype=like.dtype, device=like.device)
    if made.nbytes <= _LARGEST:
        held[key] = made
    return made.view(shape)
