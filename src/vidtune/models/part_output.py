"""What towers and connectors return, checked: their code may come from outside.

Only types, numbers and shapes are looked at, so that nothing waits for a device.
"""

from collections.abc import Sequence

from torch import Tensor

from vidtune.errors import UserError

Shape = Sequence[int | None]


def checked(what: str, output: object, number: int, expected: Shape, note: str = "") -> Tensor | Sequence[Tensor]:
    """The output of a part for several items, as it is.

    Args:
        what: the part, for messages: "connector type 'x'".
        number: number of items.
        expected: shape of the output of one item; None: any size.
        note: why this shape is expected, for the message.

    Raises:
        UserError: it is no tensor or list of tensors, or has another number of items, of dimensions, or another size.
    """
    wanted = in_words(expected)
    if not isinstance(output, Tensor) and not (
        isinstance(output, list | tuple) and all(isinstance(block, Tensor) for block in output)
    ):
        raise UserError(f"{what} returns {type(output).__name__}; expected a tensor or a list of tensors")
    if isinstance(output, Tensor) and not output.dim():
        raise UserError(f"{what} returns one number; expected shape {wanted} of each of {number} items")
    if len(output) != number:
        raise UserError(f"{what} returns {len(output)} items for {number}")
    for shape in [output.shape[1:]] if isinstance(output, Tensor) else [block.shape for block in output]:
        if not fits(shape, expected):
            raise UserError(f"{what} returns shape {tuple(shape)} of an item; expected {wanted}{note}")
    return output


def fits(shape: Sequence[int], expected: Shape) -> bool:
    """Whether a shape is as expected, where None stands for any size."""
    return len(shape) == len(expected) and all(want in (None, size) for size, want in zip(shape, expected, strict=True))


def in_words(expected: Shape) -> str:
    """An expected shape for a message: "(any, 4)"."""
    return "(" + ", ".join("any" if size is None else str(size) for size in expected) + ")"
