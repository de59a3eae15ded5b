"""Cross-entropy of a language-model head that never stores the logits of a whole pack.

Positions are processed in chunks. For a linear head the gradients are computed in the forward pass, chunk by chunk,
while the logits of the chunk exist; the backward pass only scales them, and no logits are computed twice. Other heads
(adapters, quantised weights, rows of added tokens) are called chunk by chunk, and once more in the backward pass.

Legend: N positions, D language-model width, V vocabulary.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, linear, log_softmax
from torch.utils.checkpoint import checkpoint

from vidtune.models.language_model.head import Adjustment

CHUNK_BYTES = 256 * 2**20
"""Size of the float32 logits of one chunk; at the peak a few tensors of this size exist."""


def head_loss_sum(
    head: nn.Module,
    hidden: Tensor,
    targets: Tensor,
    adjust: Adjustment | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """Summed cross-entropy of a head over hidden states.

    In addition to the gradients of `hidden` and of the head's weight (the latter in float32), memory grows by a few
    chunks of logits. Every position counts, so select the supervised positions before.

    Args:
        head: hidden states -> logits; its weight may be shared with the embedding, frozen, or adapted by LoRA.
        hidden: (N, D). With N = 0 the result is 0, with a graph to all trainable weights.
        targets: (N,) ids below V.
        adjust: function that the model applies to the output of the head; None if none.
        chunk_bytes: see :data:`CHUNK_BYTES`.

    Shape: scalar, float32
    """
    if type(head) is not nn.Linear or type(head.weight) is not nn.Parameter or head._forward_hooks:
        return _called_in_chunks(head, hidden, targets, adjust, chunk_bytes)
    if len(hidden) and hidden.is_cuda and adjust is None and has_liger():
        return _liger(head, hidden, targets)
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    tensors: list[Tensor | None] = [hidden, head.weight, head.bias]
    if not torch.is_grad_enabled():  # a Function cannot see that gradients are off
        tensors = [None if tensor is None else tensor.detach() for tensor in tensors]
    return _LinearLossSum.apply(*tensors, targets, dtype, _chunk_size(head, chunk_bytes), adjust)


class _LinearLossSum(Function):
    """Loss and gradients of a linear head in one pass over chunks of positions."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        dtype: torch.dtype,
        size: int,
        adjust: Adjustment | None,
    ) -> Tensor:
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        with torch.autocast(hidden.device.type, enabled=False):
            matrix, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
            total = torch.zeros((), device=hidden.device)
            d_hidden = torch.empty_like(hidden) if need_hidden else None
            d_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
            d_bias = torch.zeros_like(bias, dtype=torch.float32) if need_bias and bias is not None else None
            for begin in range(0, len(hidden), size):
                rows = slice(begin, begin + size)
                states = hidden[rows].to(dtype)
                loss, d_logits = _loss_and_gradient(linear(states, matrix, offset), targets[rows], adjust)
                total += loss
                if d_hidden is not None:
                    d_hidden[rows] = d_logits @ matrix
                if d_weight is not None:
                    _add_product(d_weight, d_logits, states)
                if d_bias is not None:
                    d_bias += d_logits.sum(0, dtype=torch.float32)
                del d_logits  # before the logits of the next chunk are computed
        ctx.save_for_backward(
            d_hidden,
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None or bias is None else d_bias.to(bias.dtype),
        )
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # In place, because these tensors may be very large; torch refuses a second backward pass through them.
        scaled = (None if saved is None else saved.mul_(gradient) for saved in ctx.saved_tensors)
        return (*scaled, None, None, None, None)


def _loss_and_gradient(logits: Tensor, targets: Tensor, adjust: Adjustment | None) -> tuple[Tensor, Tensor]:
    """Summed loss of one chunk and its gradient with respect to the logits, which are overwritten or freed.

    Shape: logits (N, V), targets (N,) -> scalar float32, (N, V) in the dtype of the logits
    """
    adjusted = logits
    if adjust is not None:
        with torch.enable_grad():
            logits.requires_grad_()
            adjusted = adjust(logits)
    gradient = log_softmax(adjusted.detach(), dim=1, dtype=torch.float32)
    index = targets[:, None]
    loss = -gradient.gather(1, index).sum()
    gradient.exp_().scatter_add_(1, index, gradient.new_full((), -1.0).expand(index.shape))
    gradient = gradient.to(logits.dtype)
    if adjust is not None:
        (gradient,) = torch.autograd.grad(adjusted, logits, gradient)
    return loss, gradient


def _add_product(total: Tensor, d_logits: Tensor, states: Tensor) -> None:
    """Add the gradient of the weight from one chunk to the float32 total; 16-bit products in blocks of rows.

    Shape: total (V, D), d_logits (N, V), states (N, D)
    """
    if d_logits.dtype == total.dtype:
        total.addmm_(d_logits.T, states)
        return
    size = max(1, d_logits.nbytes // (states.shape[1] * states.itemsize))
    for begin in range(0, len(total), size):
        rows = slice(begin, begin + size)
        total[rows] += d_logits[:, rows].T @ states


def _called_in_chunks(
    head: nn.Module, hidden: Tensor, targets: Tensor, adjust: Adjustment | None, chunk_bytes: int
) -> Tensor:
    """Loss of any head: the logits of one chunk at a time, recomputed in the backward pass."""

    def loss_sum(states: Tensor, labels: Tensor) -> Tensor:
        logits = head(states)
        logits = logits if adjust is None else adjust(logits)
        return cross_entropy(logits.float(), labels, reduction="sum")

    size = _chunk_size(head, chunk_bytes)
    starts = range(0, max(1, len(hidden)), size)  # without positions one empty chunk, which keeps the graph
    chunks = [(hidden[i : i + size], targets[i : i + size]) for i in starts]
    return torch.stack([checkpoint(loss_sum, *chunk, use_reentrant=False) for chunk in chunks]).sum()


def _chunk_size(head: nn.Module, chunk_bytes: int) -> int:
    """Number of positions per chunk."""
    return max(1, chunk_bytes // (4 * cast(int, head.out_features)))


@cache
def has_liger() -> bool:
    """Whether the Liger kernels are installed."""
    return find_spec("liger_kernel") is not None and find_spec("triton") is not None


def _liger(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    """The same loss by the CUDA kernel of Liger, which also computes the gradients in its forward pass."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss(reduction="sum")(head.weight, hidden, targets, head.bias)
