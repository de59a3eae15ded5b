"""The parts of the Spatio-Temporal Alignment Block: local encoding, aggregators over clips and frames, down-sampling.

Legend: K chunks, t frames of a chunk, C width, R reduced width, H/W patches of the square, M cells, m members of a
cell, F frames, N tokens of a frame, h heads.
Source: arXiv:2412.18609.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidtune.models.batch_norm_statistics import ClipBatchNorm
from vidtune.models.initial import NormalLinear, ZeroBiasConv3d, ZeroConv3d

LAYER_NORM_EPS = 1e-5


def quick_gelu(x: Tensor) -> Tensor:
    """Approximation of GELU that OpenAI CLIP uses."""
    return x * torch.sigmoid(1.702 * x)


class LocalSpatioTemporalEncoding(nn.Module):
    """Exchange of features between neighbouring frames, then between neighbouring patches; the first is zero at start.

    Shape: (K, C, t, H, W) -> the same
    """

    def __init__(self, width: int, reduced: int) -> None:
        super().__init__()
        self.norm = ClipBatchNorm(width)
        self.reduce = nn.Conv3d(width, reduced, kernel_size=1)
        self.over_time = nn.Conv3d(reduced, reduced, kernel_size=(3, 1, 1), padding=(1, 0, 0), groups=reduced)
        self.expand = ZeroConv3d(reduced, width, kernel_size=1)
        self.position = ZeroBiasConv3d(width, width, kernel_size=3, padding=1, groups=width)

    def temporal(self, x: Tensor, num_clips: int = 1) -> Tensor:
        """Features that are added by the exchange between neighbouring frames."""
        return self.expand(self.over_time(self.reduce(self.norm(x, num_clips))))

    def forward(self, x: Tensor, num_clips: int = 1) -> Tensor:
        x = x + self.temporal(x, num_clips)
        return x + self.position(x)


def attend(query: Tensor, key_weight: Tensor, value_weight: Tensor, tokens: Tensor, heads: int, scale: float) -> Tensor:
    """One query per set attends to the tokens of the set, without projecting the tokens.

    ``(W_k x) . q = x . (W_k^T q)`` and ``sum a W_v x = W_v sum a x``: keys and values are not computed, which costs one
    projection per set instead of two per token. A bias of the keys is left out, because it adds the same number to all
    logits of a softmax. A bias of the values is added to the result, because the weights sum to one.

    Args:
        query: (B, C), projected.
        key_weight, value_weight: (C, C).
        tokens: (B, N, C), normalised.

    Shape: -> (B, C)
    """
    sets, width = query.shape
    folded = torch.einsum("bhd,hdc->bhc", query.view(sets, heads, -1), key_weight.view(heads, -1, width))
    weights = (torch.einsum("bhc,bnc->bhn", folded, tokens) * scale).softmax(dim=-1)
    mixed = torch.einsum("bhn,bnc->bhc", weights, tokens)
    return torch.einsum("bhc,hdc->bhd", mixed, value_weight.view(heads, -1, width)).flatten(1)


class ClipAggregator(nn.Module):
    """A learned query attends to all positions of a chunk, with padding (the global spatio-temporal aggregator).

    ``in_proj_weight`` and ``in_proj_bias`` contain the projections of query, keys and values, in this order.

    Shape: (K, N, C) -> (K, C)
    """

    def __init__(self, width: int, heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = NormalLinear(width, width)
        self.norm_query = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.norm_tokens = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.norm_mlp = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp_in = NormalLinear(width, mlp_ratio * width)
        self.mlp_out = NormalLinear(mlp_ratio * width, width)
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.query)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.in_proj_bias)

    def forward(self, tokens: Tensor) -> Tensor:
        width = tokens.shape[-1]
        query = self.query[:, 0].expand(len(tokens), -1)
        q_weight, k_weight, v_weight = self.in_proj_weight.chunk(3)
        q_bias, _, v_bias = self.in_proj_bias.chunk(3)
        projected = functional.linear(self.norm_query(query), q_weight, q_bias)
        scale = (width // self.heads) ** -0.5
        summed = attend(projected, k_weight, v_weight, self.norm_tokens(tokens), self.heads, scale) + v_bias
        x = query + self.out_proj(summed)
        return x + self.mlp_out(self.dropout(quick_gelu(self.mlp_in(self.norm_mlp(x)))))


class SetAttention(nn.Module):
    """One query per set attends to the members of the set; the result is added to the query.

    Down-sampling uses the mean of a cell as the query, the aggregator over a frame a learned query. The logits are
    scaled by the full width and not by the width of a head, because the published weights were trained so.

    Shape: query (B, C), members (B, N, C) -> (B, C)
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.norm_members = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.q_proj = NormalLinear(width, width, bias=False)
        self.kv_proj = NormalLinear(width, 2 * width, bias=False)
        self.out_proj = NormalLinear(width, width)

    def forward(self, query: Tensor, members: Tensor) -> Tensor:
        k_weight, v_weight = self.kv_proj.weight.chunk(2)
        projected = self.q_proj(self.norm_query(query))
        scale = query.shape[-1] ** -0.5
        return query + self.out_proj(
            attend(projected, k_weight, v_weight, self.norm_members(members), self.heads, scale)
        )


class ContextFusion(nn.Module):
    """Mixes the token of a frame and the token of its chunk with a weight that is learned per channel.

    Shape: chunk (F, C), frame (F, C) -> (F, C)
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.balance = nn.Parameter(torch.empty(width))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.proj = NormalLinear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.balance)

    def forward(self, chunk: Tensor, frame: Tensor) -> Tensor:
        share = torch.sigmoid(self.balance)
        return self.proj(self.dropout(self.norm((1 - share) * chunk + share * frame)))
