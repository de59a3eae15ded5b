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
from vidtune.generation.settings import GenerationSettings
from vidtune.generation.stopping import AnswerInProgress
from vidtune.models.language_model.layer_call import LayerCallPlan, dropped_in_cache, plan_call

_NO_IDS = cast(torch.LongTensor, torch.empty(0, dtype=torch.long))


class PromptBatch(Protocol):
    """A batch of prompts to which tokens are appended, see :class:`vidtune.generation.shared_prefix.Branches`."""

    def start(self) -> Tensor: ...
    def step(self, tokens: Sequence[int]) -> Tensor: ...
    def keep(self, prompts: Sequence[int]) -> None: ...


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


def decode_steps(prompts: PromptBatch, answers: Sequence[AnswerInProgress], chooser: TokenChooser) -> Iterator[None]:
    """Append tokens to ``answers`` until all are finished; yields after every step.

    A finished answer is removed from the batch immediately. One whose logits are not finite fails; the others go on.
    Greedy answers get their smallest margin when all are finished.
    """
    generators = [chooser.generator(answer.id) for answer in answers]
    active = list(range(len(answers)))
    logits = prompts.start()
    margins = torch.full((len(answers),), torch.inf, device=logits.device)
    compared = chooser.settings.greedy and logits.shape[-1] > 1
    while True:
        if compared:
            margins[active] = torch.minimum(margins[active], chooser.margins(logits))
        for i, token in zip(active, chooser.choose(logits, [generators[i] for i in active]), strict=True):
            if token is None:
                answers[i].fail()
            else:
                answers[i].push(token)
        yield
        places = [place for place, i in enumerate(active) if answers[i].finish_reason is None]
        if not places:
            if compared:
                for answer, margin in zip(answers, margins.tolist(), strict=True):
                    answer.margin = margin
            return
        if len(places) < len(active):
            prompts.keep(places)
            active = [active[place] for place in places]
        logits = prompts.step([answers[i].token_ids[-1] for i in active])
