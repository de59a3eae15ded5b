"""The output head of a language model: which layer it is, and which weights are tied to it."""

from collections.abc import Callable

from torch import Tensor, nn

Adjustment = Callable[[Tensor], Tensor]
"""Function that a language model applies to the output of its head, such as soft-capping."""


def output_head(part: nn.Module) -> nn.Module | None:
    """The layer of a language model that computes logits; None for other components."""
    return getattr(part, "get_output_embeddings", lambda: None)()


def tied_names(model: nn.Module) -> list[tuple[str, ...]]:
    """Return the names of every parameter that has more than one name, such as embeddings that are the head too."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [tuple(group) for group in names.values() if len(group) > 1]
