"""Device and precision of a computation."""

from typing import TYPE_CHECKING

from vidtune.errors import UserError
from vidtune.spelling import suggestion

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")


def pick_device(name: str | None) -> str:
    """The device asked for; None: a GPU when there is one.

    Raises:
        UserError: torch does not know the device, or it is not there.
    """
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r}: {str(error).splitlines()[0]}") from None
    return name


def pick_dtype(name: "str | torch.dtype | None") -> "torch.dtype | None":
    """The precision asked for, by its name or as torch has it; None keeps the checkpoint's."""
    import torch

    name = None if name is None else str(name).removeprefix("torch.")
    if name is not None and name not in DTYPES:
        raise UserError(f"unknown dtype {name!r}; {suggestion(name, DTYPES)}")
    return None if name is None else getattr(torch, name)
