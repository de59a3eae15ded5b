"""Decoding: chooses tokens from logits until all answers of a batch are finished.

Legend: n answers in the batch, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vidtune.generation.prompt_tokens import PromptTokens
from vidtune.generation.settings import GenerationSettings, TokenLogprobs
from vidtune.generation.stopping import AnswerInProgress
from vidtune.models.language_model.call_plan import LayerCallPlan, dropped_in_cache, plan_call

_NO_IDS = cast(torch.LongTensor, torch.empty(0, dtype=torch.long))


class PromptBatch(Protocol):
    """A batch of prompts to which tokens are appended, see :class:`vidtune.generation.shared_prefix.Branches`."""

    def start(self) -> Tensor: ...
    def step(self, tokens: Sequence[int]) -> Tensor: ...
    def keep(self, prompts: Sequence[int]) -> None: ...


class JoinedBatch(PromptBatch, Protocol):
    """A batch of prompts that other prompts, which have been started, may join."""

    def join(self, others: PromptBatch) -> None: ...
    def own(self, question: int) -> dict[int, tuple[Tensor, Tensor]]: ...


class SinglePrompt:
    """One whole prompt, decoded with the cache of transformers; the reference that shared prefixes are compared with.

    Args:
        language_model: a causal language model of transformers.
        prompt: tokens of the prompt.
    """

    def __init__(self, language_model: PreTrainedModel, prompt: PromptTokens) -> None:
        self.language_model = language_model
        self.prompt = prompt
        [self.position] = prompt.next_positions
        self.cache = DynamicCache(config=language_model.config)

    def start(self) -> Tensor:
        """Read the prompt; returns the logits of the first answer token, (1, V)."""
        plan = plan_call(self.prompt.program, self.prompt.lengths, self.prompt.media)
        return self._forward(plan, self.prompt.position_ids, inputs_embeds=self.prompt.embeds)

    def step(self, tokens: Sequence[int]) -> Tensor:
        ids = torch.tensor([tokens], device=self.prompt.embeds.device)
        positions = self.prompt.answer_positions([self.position])
        self.position += 1
        plan = plan_call(self.prompt.program, [1], (), dropped_in_cache(self.prompt.program, self.cache))
        return self._forward(plan, positions, input_ids=ids)

    def keep(self, prompts: Sequence[int]) -> None:
        """Does nothing: there is only one prompt."""

    @torch.inference_mode()
    def _forward(self, plan: LayerCallPlan, position_ids: Tensor, **inputs: Tensor) -> Tensor:
        output = self.language_model(
            **inputs,
            **plan.inputs(self.language_model.get_decoder(), position_ids),
            position_ids=position_ids,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]


class TokenChooser:
    """Chooses the next tokens: greedy, or sampling by temperature, top-k and top-p as transformers defines them.

    Every answer draws from its own random generator, so that it does not depend on the other answers of the batch.

    Args:
        dtype: in which the model computes; None: that of the logits.
    """

    def __init__(self, settings: GenerationSettings, dtype: torch.dtype | None = None) -> None:
        self.settings = settings
        self.dtype = dtype
        self.warpers = LogitsProcessorList()
        if not settings.greedy:
            self.warpers.append(TemperatureLogitsWarper(float(settings.temperature)))
        if settings.top_k:
            self.warpers.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p < 1:
            self.warpers.append(TopPLogitsWarper(settings.top_p))

    @property
    def rule(self) -> tuple[object, ...]:
        """What is equal for choosers that choose the same tokens from the same logits and draws."""
        settings = self.settings
        return ("greedy",) if settings.greedy else (settings.temperature, settings.top_k, settings.top_p)

    def compares(self, logits: Tensor) -> bool:
        """Whether the tokens chosen from logits have margins: they are greedy, and there is another token."""
        return self.settings.greedy and logits.shape[-1] > 1

    def generator(self, request_id: str) -> torch.Generator:
        """Random generator of one answer; see `GenerationSettings.seed_of`."""
        return torch.Generator().manual_seed(self.settings.seed_of(request_id))

    @torch.inference_mode()
    def choose(self, logits: Tensor, generators: Sequence[torch.Generator]) -> list[int | None]:
        """Returns the next token of every answer; None where the logits are not finite, whatever is sampled.

        Single tokens may have the logit -Inf: a model that never gives them.

        Shape: (n, V) -> n token ids
        """
        highest = logits.argmax(-1, keepdim=True)  # of NaN, if there is one
        usable = logits.gather(-1, highest).isfinite()
        tokens = highest if self.settings.greedy else self._drawn(logits.float().masked_fill(~usable, 0.0), generators)
        found = zip(tokens[:, 0].tolist(), usable[:, 0].tolist(), strict=True)
        return [token if is_usable else None for token, is_usable in found]

    @torch.inference_mode()
    def margins(self, logits: Tensor) -> Tensor:
        """How far the likeliest token of each answer is above the second, in rounding steps of the dtype at its logit.

        Shape: (n, V) -> (n,)
        """
        dtype = logits.dtype if self.dtype is None else self.dtype
        first, second = logits.topk(2, dim=-1).values.float().unbind(-1)
        return (first - second) / (first.abs() * torch.finfo(dtype).eps).clamp(min=torch.finfo(torch.float32).tiny)

    def _drawn(self, logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Sampled tokens, (n, V) -> (n, 1)."""
        scores = self.warpers(_NO_IDS, logits)
        overflown = ~scores.amax(-1, keepdim=True).isfinite()  # a temperature so low that only its limit is left
        limit = torch.zeros_like(logits).masked_fill(logits < logits.amax(-1, keepdim=True), -torch.inf)
        mass = torch.where(overflown, limit, scores).softmax(-1).double().cumsum(-1)
        draws = torch.cat([torch.rand(1, generator=generator, dtype=torch.float64) for generator in generators])
        points = draws.to(mass.device)[:, None] * mass[:, -1:]
        return torch.searchsorted(mass, points, right=True)


class Decoding:
    """Answers that are decoded together, one token for each in every step. Others may join between two steps, and any
    may leave. A finished answer leaves at once. One whose logits are not finite fails; the others go on.

    Attributes:
        answers: the answers in progress.
    """

    def __init__(self) -> None:
        self.answers: list[AnswerInProgress] = []
        self._choosers: list[TokenChooser] = []
        self._generators: list[torch.Generator] = []
        self._prompts: PromptBatch | None = None
        self._logits = torch.empty(0)
        self._margins = torch.empty(0)

    def join(self, prompts: PromptBatch, answers: Sequence[AnswerInProgress], choosers: Sequence[TokenChooser]) -> None:
        """Read the prompts of further answers, which go on together with the others from now on.

        Args:
            choosers: how the tokens of each answer are chosen.
        """
        logits = prompts.start()
        margins = torch.full((len(answers),), torch.inf, device=logits.device)
        if self._prompts is None or not self.answers:
            self._prompts, self._logits, self._margins = prompts, logits, margins
        else:
            cast(JoinedBatch, self._prompts).join(prompts)
            self._logits, self._margins = torch.cat((self._logits, logits)), torch.cat((self._margins, margins))
        self.answers = [*self.answers, *answers]
        self._choosers += choosers
        self._generators += [chooser.generator(one.id) for one, chooser in zip(answers, choosers, strict=True)]

    def choose(self) -> None:
        """Append the next token to every answer. Finished greedy answers get their smallest margin."""
        for chooser, places in self._alike():
            logits = self._logits if len(places) == len(self.answers) else self._logits[places]
            if chooser.compares(logits):
                self._margins[places] = torch.minimum(self._margins[places], chooser.margins(logits))
            answers = [self.answers[place] for place in places]
            tokens = chooser.choose(logits, [self._generators[place] for place in places])
            for answer, row, token in zip(answers, logits, tokens, strict=True):
                if token is None:
                    answer.fail()
                else:
                    if answer.told is not None:
                        answer.token_logprobs.append(token_logprobs(row, token, answer.told))
                    answer.push(token)
            if chooser.compares(logits) and any(answer.finish_reason is not None for answer in answers):
                for answer, margin in zip(answers, self._margins[places].tolist(), strict=True):
                    answer.margin = margin if answer.finish_reason not in (None, "error") else None

    def advance(self) -> None:
        """Let finished answers leave, and read the last token of the others."""
        self.keep([answer.finish_reason is None for answer in self.answers])
        if self.answers:
            assert self._prompts is not None
            self._logits = self._prompts.step([answer.token_ids[-1] for answer in self.answers])

    def said(self, answer: AnswerInProgress) -> dict[int, tuple[Tensor, Tensor]]:
        """Keys and values of a question and its answer but the last token, see `Branches.own`."""
        return cast(JoinedBatch, self._prompts).own(self.answers.index(answer))

    def keep(self, kept: Sequence[bool]) -> None:
        """Let answers leave, also before their next token is read; ``kept``: whether each stays."""
        places = [place for place, stays in enumerate(kept) if stays]
        if len(places) == len(self.answers):
            return
        self.answers = [self.answers[place] for place in places]
        self._choosers = [self._choosers[place] for place in places]
        self._generators = [self._generators[place] for place in places]
        if not places:
            self._prompts = None
            return
        assert self._prompts is not None
        self._prompts.keep(places)
        self._logits, self._margins = self._logits[places], self._margins[places]

    def _alike(self) -> list[tuple[TokenChooser, list[int]]]:
        """Places of the answers whose tokens are chosen by the same settings."""
        found: dict[tuple[object, ...], tuple[TokenChooser, list[int]]] = {}
        for place, chooser in enumerate(self._choosers):
            found.setdefault(chooser.rule, (chooser, []))[1].append(place)
        return list(found.values())


def decode_steps(prompts: PromptBatch, answers: Sequence[AnswerInProgress], chooser: TokenChooser) -> Iterator[None]:
    """Append tokens to ``answers`` until all are finished, see `Decoding`; yields after every step."""
    decoding = Decoding()
    decoding.join(prompts, answers, [chooser] * len(answers))
    while decoding.answers:
        decoding.choose()
        yield
        decoding.advance()


def token_logprobs(logits: Tensor, token: int, most: int) -> TokenLogprobs:
    """Log-probabilities, before temperature, of a token and of the ``most`` likeliest ones in its place. Shape: (V,)"""
    logprobs = logits.float().log_softmax(-1)
    values, tokens = logprobs.topk(min(most, len(logprobs)))
    likeliest = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return TokenLogprobs(token, float(logprobs[token]), likeliest)
