"""Shared prefix: many questions over one prompt prefix, all of which attend to the same copy of the prefix.

The prefix is run through the language model once. Its keys and values are stored once, also while a batch of questions
is answered: all queries of the batch are folded into the query axis of one product with the prefix. In addition every
query attends to the tokens of its own question. Both parts are merged exactly by their log-sum-exp (Hydragen,
arXiv:2402.05099). The tokens of the questions are packed into one row without padding, so that every matrix product
with the weights covers the whole batch.

A layer program that chooses tokens by attention lets every question choose for itself: from that layer on, what a
question keeps of the prefix is its own, see :mod:`vidtune.models.language_model.guided_drop`.

Nothing here changes the model: the attention of a forward call travels in the call itself (``attend``, see
:mod:`vidtune.models.language_model.attention`), so two threads may answer with one model.

Legend: n questions of the batch, T tokens of this forward over all questions, Q most tokens of one question in it,
P prefix tokens, S stored tokens of the longest question, H heads, G key/value heads, R = H / G, D head width,
W model width, V vocabulary.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel

from vidtune.errors import UserError
from vidtune.generation.kept import Said
from vidtune.generation.prefix_attention import attend_to_prefix, attend_with_total
from vidtune.generation.prompt_tokens import PromptTokens
from vidtune.models.language_model.attention import PACKED_ATTENTION, attend_packed, other_attention
from vidtune.models.language_model.call_plan import LayerCallPlan, plan_call
from vidtune.models.language_model.families import FIRST, agree, family_of, proof_key, tokens_of_proof
from vidtune.models.language_model.guided_drop import OpenPrefix
from vidtune.processing.batch import on_device

LONG_QUESTION = 256
"""Questions of more tokens that are also longer than their prefix, as with media after the question, repeat the prefix
in a causal kernel. It is faster than the merge, which computes the scores of later tokens too."""


class Prefix:
    """Keys and values of a prompt prefix, computed once and read-only afterwards.

    Args:
        language_model: a causal language model of transformers.
        tokens: the P tokens of the prefix; P may be 0.

    Attributes:
        lengths: number of tokens that are shared in each stage of the layer program, see
            :mod:`vidtune.models.language_model.layer_program`; without one, only P.
        opened: the prefix where questions choose by attention what stays of it; None: they do not.
    """

    @torch.inference_mode()
    def __init__(self, language_model: PreTrainedModel, tokens: PromptTokens) -> None:
        self.language_model = language_model
        plan = plan_call(tokens.program, tokens.lengths, tokens.media, suspend=sum(tokens.lengths) > 0)
        self.lengths = [sum(counts) for counts in plan.counts]
        self.opened: OpenPrefix | None = None
        self.layers: list[tuple[Tensor, Tensor]] = []
        if self.length:
            cache = DynamicCache(config=language_model.config)
            language_model(
                inputs_embeds=tokens.embeds,
                position_ids=tokens.position_ids,
                **plan.inputs(language_model.get_decoder(), tokens.position_ids),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            self.layers = [(keys[0], values[0]) for keys, values, *_ in cache]
            self.opened = getattr(plan.guided, "opened", None)

    @property
    def length(self) -> int:
        """Number of tokens of the prefix, P."""
        return self.lengths[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)

    @torch.inference_mode()
    def extended(self, tokens: PromptTokens, said: Said | None = None) -> "Prefix":
        """A longer prefix: this one and what was said, not read again, and the tokens that follow; without a layer
        program only.
        """
        branch = Branches(self, tokens, [said])
        branch.start()
        longer = Prefix(self.language_model, PromptTokens.of([tokens.embeds[0, :0]]))
        [[added]] = branch.lengths
        longer.lengths = [self.length + added]
        longer.layers = [
            (torch.cat((before[0], keys[0, :, :added]), 1), torch.cat((before[1], values[0, :, :added]), 1))
            for before, (keys, values) in zip(self.layers, branch.layers.values(), strict=True)
        ]
        return longer


class Layout:
    """Positions of the packed tokens of one forward pass: T tokens of n questions.

    Attributes:
        is_first: no question has tokens before this forward pass.
        counts: number of tokens of each question in this forward pass.
        starts: (n,) number of tokens of each question before this forward pass.
        rows: (T,) index of the question that each token belongs to.
        steps: (T,) index of each token among the tokens of its question in this forward pass.
        columns: (T,) index of each token among all tokens of its question.
        last: (n,) index in T of the last token of each question.
        width: Q.
        stored: S, including this forward pass.
        shared: number of tokens of the prefix of each question that its tokens attend to.
        sharing: each prefix with tokens, and the tokens that attend to it, as an index of T.
    """

    def __init__(
        self,
        before: Sequence[int],
        counts: Sequence[int],
        device: torch.device,
        shared: Sequence[int],
        prefixes: Sequence[Prefix],
    ) -> None:
        self.is_first = not any(before)
        self.counts, self._before, self._prefixes = counts, before, prefixes
        self._elsewhere = {device: self}
        ends, rows = np.cumsum(counts), np.arange(len(counts)).repeat(counts)
        steps = np.arange(len(rows)) - (ends - counts)[rows]
        self.starts, self.rows, self.last = (on_device(x, device) for x in (np.asarray(before), rows, ends - 1))
        self.steps, self.columns = on_device(steps, device), on_device(np.asarray(before)[rows] + steps, device)
        self.width = max(counts)
        self.stored = max(length + count for length, count in zip(before, counts, strict=True))
        self.shared = shared
        questions: dict[int, list[int]] = {}
        for number, prefix in enumerate(prefixes):
            questions.setdefault(id(prefix), []).append(number)
        self.sharing = [
            (prefixes[numbers[0]], self._tokens_of(numbers)) for numbers in questions.values() if shared[numbers[0]]
        ]

    def _tokens_of(self, questions: Sequence[int]) -> Tensor | slice:
        """Index in T of the tokens of some questions."""
        if len(questions) == len(self.counts):
            return slice(None)
        rows = np.arange(len(self.counts)).repeat(self.counts)
        return on_device(np.flatnonzero(np.isin(rows, questions)), self.rows.device)

    def on(self, device: torch.device) -> "Layout":
        """The same on the device of a layer."""
        if device not in self._elsewhere:
            self._elsewhere[device] = Layout(self._before, self.counts, device, self.shared, self._prefixes)
        return self._elsewhere[device]

    @cached_property
    def hidden(self) -> Tensor:
        """(n, Q, S) True where a query must not attend: later tokens, and positions past the end of its question."""
        queries = self.starts[:, None] + torch.arange(self.width, device=self.starts.device)
        return torch.arange(self.stored, device=self.starts.device) > queries[..., None]


class Branches:
    """A batch of questions, each of which continues a prefix. A question is what follows the prefix in a prompt, also
    media. Further questions may join, and questions may leave, between two steps.

    Args:
        prefix: the part of the prompts that all of them share, or that of each question.
        questions: tokens of the questions; none may be empty.
        said: for each question, what stands between its prefix and its tokens and needs not be read again; None:
            nothing. Without a layer program only.

    Raises:
        ValueError: questions of several prefixes, of which one is open (`Prefix.opened`); start them apart, and `join`.
    """

    def __init__(
        self, prefix: Prefix | Sequence[Prefix], questions: PromptTokens, said: Sequence[Said | None] = ()
    ) -> None:
        number = len(questions.lengths)
        self.prefixes = list(prefix) if isinstance(prefix, Sequence) else [prefix] * number
        first = self.prefixes[0]
        if first.opened is not None and any(other is not first for other in self.prefixes):
            raise ValueError("questions of several open prefixes cannot start together")
        self.language_model = first.language_model
        self.opened = first.opened
        self.questions = questions
        self.lengths = [[0] * number for _ in first.lengths]
        self.positions = list(questions.next_positions)
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.layouts: list[Layout] = []
        if any(said):
            self.lengths = [[0 if one is None else len(one) for one in said]]
            self.layers = _said_before(said)

    def start(self) -> Tensor:
        """Read the questions; returns the logits of the first answer tokens, (n, V)."""
        questions = self.questions
        plan = plan_call(questions.program, questions.lengths, questions.media, self._dropped(), prefix=self.opened)
        return self._forward(questions.embeds, questions.position_ids, plan)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to every question; returns the logits of the next tokens, (n, V)."""
        model = self.language_model
        ids = torch.tensor([tokens], device=model.device)
        positions = self.questions.answer_positions(self.positions)
        self.positions = [position + 1 for position in self.positions]
        plan = plan_call(self.questions.program, [1] * len(tokens), (), self._dropped())
        return self._forward(model.get_input_embeddings()(ids), positions, plan)

    @torch.inference_mode()
    def keep(self, prompts: Sequence[int]) -> None:
        """Keep only these questions, given by their indices in the batch; one that is named twice is copied."""
        self.lengths = [[lengths[i] for i in prompts] for lengths in self.lengths]
        self.positions = [self.positions[i] for i in prompts]
        self.prefixes = [self.prefixes[i] for i in prompts]
        self.layers = {i: (keys[prompts], values[prompts]) for i, (keys, values) in self.layers.items()}

    def own(self, question: int) -> dict[int, tuple[Tensor, Tensor]]:
        """Keys and values of a question and its answer so far, copied; without a layer program only.

        Shape: layer -> (G, S, D) each
        """
        length = self.lengths[0][question]
        return {
            layer: (keys[question, :, :length].clone(), values[question, :, :length].clone())
            for layer, (keys, values) in self.layers.items()
        }

    @torch.inference_mode()
    def join(self, others: "Branches") -> None:
        """Go on together with other questions, which stand behind these. Both have been started, under one program."""
        self.lengths = [[*own, *joined] for own, joined in zip(self.lengths, others.lengths, strict=True)]
        self.positions += others.positions
        self.prefixes += others.prefixes
        self.layers = {
            layer: (
                _stacked(keys, others.layers[layer][0]),
                _stacked(values, others.layers[layer][1]),
            )
            for layer, (keys, values) in self.layers.items()
        }

    @torch.inference_mode()
    def _forward(self, embeds: Tensor, position_ids: Tensor, plan: LayerCallPlan) -> Tensor:
        """Read the next tokens of every question, (1, T, W)."""
        model, added = self.language_model, plan.counts
        self.layouts = [
            Layout(before, counts, model.device, [prefix.lengths[stage] for prefix in self.prefixes], self.prefixes)
            for stage, (before, counts) in enumerate(zip(self.lengths, added, strict=True))
        ]
        self.lengths = [
            [sum(pair) for pair in zip(*pair, strict=True)] for pair in zip(self.lengths, added, strict=True)
        ]
        output = model(
            inputs_embeds=embeds,
            position_ids=position_ids,
            use_cache=False,
            attend=self.attend,
            logits_to_keep=self.layouts[-1].last,
            **plan.inputs(model.get_decoder(), position_ids),
        )
        return output.logits[0]

    def _dropped(self) -> list[list[int]]:
        """For each stage of the layer program, how many tokens of prefix and question were dropped so far."""
        whole = [prefix.length + length for prefix, length in zip(self.prefixes, self.lengths[0], strict=True)]
        return [
            [
                total - prefix.lengths[stage] - own
                for total, prefix, own in zip(whole, self.prefixes, lengths, strict=True)
            ]
            for stage, lengths in enumerate(self.lengths)
        ]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of the tokens of this forward pass to their prefix and to the earlier tokens of their question.

        Shape: query (T, H, D), key and value (T, G, D) -> (T, H, D)
        """
        stage = self.questions.program.stage_of(layer)
        layout = self.layouts[stage].on(query.device)
        heads, dim = query.shape[1:]
        keys, values = self._store(layer, layout, key, value)
        if layout.is_first and layout.width > max(LONG_QUESTION, *layout.shared):
            return self._attend_repeating(layer, query, key, value, scale)
        groups = keys.shape[1]
        repeats = heads // groups

        padded = query.new_zeros(len(keys), layout.width, heads, dim)
        padded[layout.rows, layout.steps] = query
        padded = padded.unflatten(2, (groups, repeats)).permute(0, 2, 3, 1, 4).flatten(2, 3)
        own, own_total = (
            x.unflatten(2, (repeats, layout.width)).permute(0, 3, 1, 2, 4).flatten(2, 3)[layout.rows, layout.steps]
            for x in attend_with_total(padded, keys, values, scale, layout.hidden.repeat(1, repeats, 1)[:, None])
        )
        for prefix, rows in layout.sharing:
            shared, shared_total = attend_to_prefix(query[rows], *prefix.layers[layer], scale)
            own[rows] = torch.lerp(own[rows], shared, torch.sigmoid(shared_total - own_total[rows]))
        return own.to(query.dtype)

    def _attend_repeating(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of whole questions, with the prefix repeated before each; shapes as in :meth:`attend`."""
        stage = self.questions.program.stage_of(layer)
        counts, shared = self.lengths[stage], self.layouts[stage].shared
        queries, keys, values = (
            torch.cat([row for both in zip(before, x.split(counts), strict=True) for row in both]).transpose(0, 1)[None]
            for before, x in (
                ([query.new_zeros(length, *query.shape[1:]) for length in shared], query),
                (self._before(layer, 0, key[:0]), key),
                (self._before(layer, 1, value[:0]), value),
            )
        )
        ends = list(accumulate(length + count for length, count in zip(shared, counts, strict=True)))
        output = attend_packed(queries, keys, values, [0, *ends], scale)[0]
        return torch.cat([output[end - count : end] for end, count in zip(ends, counts, strict=True)])

    def _before(self, layer: int, which: int, none: Tensor) -> list[Tensor]:
        """Keys (0) or values (1) of the prefix of each question, (P, G, D); ``none`` where it shares no tokens."""
        shared = self.layouts[self.questions.program.stage_of(layer)].shared
        return [
            prefix.layers[layer][which].transpose(0, 1) if length else none
            for prefix, length in zip(self.prefixes, shared, strict=True)
        ]

    def _store(self, layer: int, layout: Layout, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new keys and values of each question; returns all stored so far, (n, G, S, D) each."""
        if layer not in self.layers:
            sizes = len(self.lengths[0]), key.shape[1], 0
            self.layers[layer] = key.new_zeros(*sizes, key.shape[2]), value.new_zeros(*sizes, value.shape[2])
        keys, values = self.layers[layer]
        missing = layout.stored - keys.shape[2]
        if missing > 0:
            room = missing + keys.shape[2] // 2 + 16
            keys, values = pad(keys, (0, 0, 0, room)), pad(values, (0, 0, 0, room))
            self.layers[layer] = keys, values
        keys[layout.rows, :, layout.columns] = key
        values[layout.rows, :, layout.columns] = value
        return keys[:, :, : layout.stored], values[:, :, : layout.stored]


def _said_before(said: Sequence[Said | None]) -> dict[int, tuple[Tensor, Tensor]]:
    """Keys and values of what was said, as a batch of questions stores them: layer -> (n, G, S, D) each."""
    known = [one for one in said if one is not None]
    width = max(map(len, known))

    def rows(layer: int, which: int) -> Tensor:
        none = known[0].layers[layer][which][:, :0]
        parts = (none if one is None else one.layers[layer][which] for one in said)
        return torch.stack([pad(part, (0, 0, 0, width - part.shape[1])) for part in parts])

    return {layer: (rows(layer, 0), rows(layer, 1)) for layer in known[0].layers}


def _stacked(one: Tensor, other: Tensor) -> Tensor:
    """Keys or values of two batches of questions: (n, G, S, D), (m, G, R, D) -> (n + m, G, max(S, R), D)."""
    width = max(one.shape[2], other.shape[2])
    return torch.cat([pad(x, (0, 0, 0, width - x.shape[2])) for x in (one, other)])


_CANNOT_SHARE: dict[str, str] = {}
"""Key of the proof of a language model of an unknown family -> why it cannot share a prefix; empty if it can."""


def check_language_model(language_model: PreTrainedModel) -> None:
    """Raise an error for a language model whose attention cannot be split into prefix and question.

    A model of an unknown family is tried on a few tokens, once per config and weights.

    Raises:
        UserError: the model has sliding-window or other non-full attention, caps its attention scores, or does not give
            over a shared prefix what it gives over a plain prompt.
        ValueError: the model was not built with :data:`PACKED_ATTENTION`.
    """
    config = language_model.config
    kinds = other_attention(config)
    if not kinds and config._attn_implementation != PACKED_ATTENTION:
        raise ValueError(
            f"the language model attends by {config._attn_implementation!r}; build it with "
            f"attn_implementation={PACKED_ATTENTION!r}"
        )
    if not kinds and not family_of(config).exact:
        key = proof_key(language_model)
        if key not in _CANNOT_SHARE:
            _CANNOT_SHARE[key] = _why_it_cannot_share(language_model)
        kinds = {_CANNOT_SHARE[key]} - {""}
    if kinds:
        raise UserError(
            f"language model {config.model_type!r} has {', '.join(sorted(kinds))}, "
            "which a shared prefix does not support; use share_prefix=False"
        )


@torch.inference_mode()
def _why_it_cannot_share(language_model: PreTrainedModel) -> str:
    """What keeps a language model from sharing a prefix; empty if two questions over one prefix equal plain prompts."""
    try:
        embeds = tokens_of_proof(language_model)
        prefix = Prefix(language_model, PromptTokens.of([embeds[:FIRST]]))
        shared = Branches(prefix, PromptTokens.of([embeds[FIRST:], embeds[FIRST:-2]], begin=FIRST)).start()
        plain, alone = (
            language_model(inputs_embeds=part[None], use_cache=False).logits[0, [-1, -3]]
            for part in (embeds, embeds[FIRST:])
        )
        return "" if agree(shared, plain, alone) else "attention of its own"
    except (torch.OutOfMemoryError, torch.AcceleratorError, MemoryError):
        raise  # says nothing of the language model
    except Exception as error:
        return f"code of its own ({type(error).__name__}: {next(iter(str(error).splitlines()), '')})"
