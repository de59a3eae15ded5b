"""A mode that refuses what waits for a device."""

from torch.utils._python_dispatch import TorchDispatchMode

WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero"}


class NoWaiting(TorchDispatchMode):
    """Refuses what waits for a device: numbers and sizes that are read from a tensor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.name() not in WAITS, func.name()
        return func(*args, **(kwargs or {}))
