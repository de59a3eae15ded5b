"""Device and precision of a computation."""

from typing import TYPE_CHECKING

from vidtune.errors import UserError
from vidtune.machine.cores import available_cores
from vidtune.machine.memory import memory_limit
from vidtune.spelling import suggestion

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")


def pick_device(name: str | None) -> str:
    """The device asked for; None: a GPU when there is one. On a CPU torch gets no more threads than there are cores.

    Raises:
        UserError: torch does not know the device, or it is not there.
    """
    import torch

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # also asks whether it holds values
    except NotImplementedError:
        raise UserError(f"device {name!r}: this machine, or this build of torch, has none") from None
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r}: {str(error).splitlines()[0]}") from None
    if torch.device(name).type == "cpu" and torch.get_num_threads() > available_cores():
        torch.set_num_threads(available_cores())  # torch counts the cores of the machine, not those of a container
    return name


def pick_devices(names: str) -> str:
    """The devices asked for, separated by commas; ``auto``: all GPUs, or what there is without one.

    Raises:
        UserError: see `pick_device`.
    """
    import torch

    if names == "auto":
        names = ",".join(f"cuda:{number}" for number in range(torch.cuda.device_count())) or pick_device(None)
    return ",".join(pick_device(name.strip()) for name in names.split(","))


def numbered(device: str) -> tuple[str, int]:
    """Type and number of a device of torch, which are equal where two names mean one device: no number is the first."""
    import torch

    found = torch.device(device)
    return found.type, found.index or 0


def device_memory(device: "torch.device") -> int:
    """Memory of a device in bytes; for a CPU the memory that this process may use."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return memory_limit()


def free_memory(device: "torch.device") -> int:
    """Memory of a device that nobody uses, in bytes; all of it where that is not known."""
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else device_memory(device)


def pick_dtype(name: "str | torch.dtype | None") -> "torch.dtype | None":
    """The precision asked for, by its name or as torch has it; None keeps the checkpoint's."""
    import torch

    name = None if name is None else str(name).removeprefix("torch.")
    if name is not None and name not in DTYPES:
        raise UserError(f"unknown dtype {name!r}; {suggestion(name, DTYPES)}")
    return None if name is None else getattr(torch, name)
