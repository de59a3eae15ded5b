"""Language models that are published as differences to a base: ours = base + difference, by key and shape.

A vocabulary may be longer than that of the base: the first rows are added, the new ones are taken as they are.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from vidtune.errors import UserError


def add_difference(base: Mapping[str, Tensor], difference: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Return the weights of a language model, in the dtype of the difference; sums are made in float32.

    Args:
        base: weights of the base, under our names.
        difference: differences under the same names; a weight that the base does not have is taken as it is.
        where: path for error messages.

    Raises:
        UserError: a weight of the base is missing, or has another shape.
    """
    return {**difference, **_combined(difference, base, 1, where)}


def difference_to(
    base: Mapping[str, Tensor], weights: Mapping[str, Tensor], with_rows: Collection[str], where: Path
) -> dict[str, Tensor]:
    """Return the differences of weights to those of a base, the inverse of :func:`add_difference` but for rounding.

    Args:
        weights: those of the language model and others, which are returned as they are.
        with_rows: names of the matrices with a row for each token, which may be longer than in the base.

    Raises:
        UserError: the base has other weights, or weights of another shape; ``where`` is its path.
    """
    for name, tensor in weights.items():
        if not name.startswith("language_model."):
            continue
        if name not in base:
            raise UserError(f"{where}: {name}: the base lacks it; name the right base")
        if name not in with_rows and tensor.shape != base[name].shape:
            raise UserError(
                f"{where}: {name}: shape {tuple(tensor.shape)} in the model, {tuple(base[name].shape)} in the base; "
                "name the right base"
            )
    return {**weights, **_combined(weights, base, -1, where)}


def _combined(ours: Mapping[str, Tensor], base: Mapping[str, Tensor], sign: int, where: Path) -> dict[str, Tensor]:
    """``ours + sign * base`` in the first rows of ours, for the names of the base."""
    found = {}
    for name, tensor in base.items():
        other = ours.get(name)
        if other is None:
            raise UserError(f"{where}: {name}: one of the language model and its base lacks it; name the right base")
        if other.ndim == 0 or len(other) < len(tensor) or other.shape[1:] != tensor.shape[1:]:
            raise UserError(
                f"{where}: {name}: shape {tuple(other.shape)} does not fit {tuple(tensor.shape)} of the base; name the "
                "right base"
            )
        combined = other.float() if other.dtype != other.float().dtype else other.clone()
        combined[: len(tensor)] += sign * tensor.float()
        found[name] = combined.to(other.dtype)
    return found
