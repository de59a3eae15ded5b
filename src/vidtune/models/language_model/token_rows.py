"""Rows of a few tokens in the embedding and the output head of a language model, as parameters of their own.

They are trained while the rest of both matrices stays frozen. Gradients and optimizer state exist for these rows only.
PEFT's TrainableTokens does not fit here: it copies the whole matrix in every call, and the copy has a gradient of V
rows; it also takes the place of the head, which then loses its bias.

Legend: A tokens, V vocabulary, D language-model width, P predicted tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TokenRows(nn.Module):
    """Parameters that take the place of some rows of the embedding and of the head; they start with their values.

    Args:
        language_model: a causal language model; its embedding and its head get a hook.
        ids: tokens whose rows in the embedding become parameters.
        predicted: tokens whose rows in the head become parameters. If head and embedding are one weight, the rows of
            ``ids`` are used in both.

    Attributes:
        input: rows of the embedding, in the order of their ids. Shape: (A, D) float32
        output: rows of the head. Shape: (P, D) float32; does not exist without predicted tokens, and with a tied head
    """

    input: nn.Parameter
    output: nn.Parameter
    input_ids: Tensor
    output_ids: Tensor

    def __init__(self, language_model: nn.Module, ids: Sequence[int], predicted: Sequence[int] = ()) -> None:
        super().__init__()
        model: Any = language_model
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        self.tied = head is not None and head.weight is embedding.weight
        self._take("input", embedding, ids)
        embedding.register_forward_hook(self._embedded)
        if self.tied or predicted:
            if self.tied:
                self.register_buffer("output_ids", self.input_ids, persistent=False)
            else:
                self._take("output", head, predicted)
            head.register_forward_hook(self._predicted)

    def _take(self, side: str, layer: nn.Module, ids: Sequence[int]) -> None:
        weight: Any = layer.weight
        ordered = sorted(ids)
        self.register_buffer(f"{side}_ids", torch.tensor(ordered, device=weight.device), persistent=False)
        self.register_parameter(side, nn.Parameter(weight.detach()[ordered].float()))

    def _embedded(self, embedding: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Embeddings with the rows put in, (B, L) ids -> (B, L, D)."""
        ids = args[0]
        place = torch.searchsorted(self.input_ids, ids).clamp(max=len(self.input_ids) - 1)
        rows = F.embedding(place, self.input) * getattr(embedding, "embed_scale", 1.0)
        return torch.where((self.input_ids[place] == ids).unsqueeze(-1), rows.to(output.dtype), output)

    def _predicted(self, head: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Logits with those of the rows put in, (..., D) hidden states -> (..., V)."""
        rows = self.input if self.tied else self.output
        bias: Any = getattr(head, "bias", None)
        logits = F.linear(args[0], rows.to(args[0].dtype), None if bias is None else bias[self.output_ids])
        return output.index_copy(-1, self.output_ids, logits.to(output.dtype))
