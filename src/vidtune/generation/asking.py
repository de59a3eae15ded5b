"""What is asked of a model: requests as prompts, answers that begin, and why there is none."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from vidtune.data.problems import SampleProblem
from vidtune.errors import UserError
from vidtune.generation.grouping import Prompt
from vidtune.generation.kept import prefix_key
from vidtune.generation.limits import context_length
from vidtune.generation.settings import Answer, GenerationSettings, Request, TokenLogprobs
from vidtune.generation.shared_prefix import Prefix
from vidtune.generation.stopping import AnswerInProgress, eos_ids, special_ids
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Example
from vidtune.processing.processor import VideoLMProcessor
from vidtune.processing.tokenizing import answer_ids

NO_ROOM = "no room for an answer"


class Asking:
    """Turns requests into prompts of one format. Several threads may use it.

    Args:
        model: the model that is asked.
        processor: processor of the model.
        prompt: name of one of the processor's prompt formats.

    Raises:
        UserError: the prompt format does not exist.
    """

    def __init__(self, model: VideoLM, processor: VideoLMProcessor, prompt: str) -> None:
        self.model, self.prompt = model, prompt
        self.processor = processor.measuring(model.config.measures())
        written = processor.prompt_format(prompt)
        self._ids = partial(answer_ids, prompt=written, tokenizer=processor.chunk_tokenizer)
        self._stop = written.stop
        self._end = written.assistant.end.strip()
        self._eos_ids = eos_ids(model.generation_config, processor.tokenizer)

    def prepare(self, request: Request, settings: GenerationSettings) -> Prompt | Answer:
        """The request as token ids, or an answer with the reason why it cannot be answered."""
        example = self.example(request)
        if isinstance(example, Answer):
            return example
        media_ids, text_ids = self.processor.split_at_media(example)
        if not len(text_ids):
            return Answer.failed(
                request.id, f"prompt format {self.prompt!r} leaves nothing after the media; use another"
            )
        options = tuple((text, tuple(self._ids(text))) for text in request.options)
        if any(not text.strip() for text, _ in options):
            return Answer.failed(request.id, "one of its options is empty; its likelihood cannot be computed")
        forced = () if request.forced is None else tuple(self._ids(request.forced))
        if request.forced is not None and (options or not request.forced.strip()):
            return Answer.failed(
                request.id, "its given answer is empty, or stands beside options; give one or the other"
            )
        longest = max((len(ids) for ids in (*(ids for _, ids in options), forced)), default=0) or 1
        context = context_length(self.model.config.text_config)
        room = settings.max_new_tokens + longest if context is None else context - len(example)
        if context is not None and room < longest:
            fits = self.processor.fitting(example, context - longest, "--frames")
            return Answer.failed(
                request.id,
                f"the prompt has {len(example)} tokens and the model's context {context}: {NO_ROOM}; "
                f"ask a shorter question or about fewer files{fits}",
            )
        most = longest if options or forced else min(room, settings.max_new_tokens)
        return Prompt(example, len(media_ids), most, options, forced)

    def example(self, request: Request) -> Example | Answer:
        """The request as an example, or an answer with the reason why it cannot be one."""
        if not request.question.strip():
            return Answer.failed(request.id, "the question is empty; ask something")
        try:
            return self.processor.question_example(
                request.question, request.media, self.prompt, request.history, id=request.id
            )
        except SampleProblem as problem:  # its id is that of the answer; who asks one question knows none
            return Answer.failed(request.id, problem.detail)
        except UserError as error:
            return Answer.failed(request.id, str(error))

    def begin(
        self, prompt: Prompt, settings: GenerationSettings, told: int | None = None, id: str | None = None
    ) -> AnswerInProgress:
        """The answer to a prompt, without a token.

        Args:
            told: see `AnswerInProgress`.
            id: id of the answer, which seeds sampling; None: that of the prompt.
        """
        stop = tuple(dict.fromkeys((*settings.stop, *self._stop)))
        tokenizer = self.processor.tokenizer
        ends = self._eos_ids | special_ids(tokenizer, (*stop, self._end))
        return AnswerInProgress(
            prompt.example.id if id is None else id,
            tokenizer,
            ends,
            stop,
            prompt.max_new_tokens,
            prompt.untrained,
            told,
        )


@dataclass(eq=False)
class Question:
    """A question under way: one prompt and its answers.

    Args:
        asking: prompts of its format.
        prompt: the prompt.
        media: for each medium of the prompt, what makes two media equal: the content and how it is read.
        settings: how the answers are decoded; answer k is decoded as that to the request "k".
        choices: number of answers.
        told: see `AnswerInProgress`.
        grows: whether every new piece of the answers is reported; else only their end.
        blocks: for each medium its encoding; not needed where `ContinuousEngine.find_prefix` found the prefix.

    Attributes:
        prefix: keys and values of the prompt up to its last medium, when they are there.
        left: whoever asked has gone.
        answers: the answers in progress, once the question runs.
        shown: number of characters of each answer that were reported; -1 once it is finished.
        found: the prefix was kept of an earlier question.
        known: number of tokens after the prefix that were kept of an earlier turn.
    """

    asking: Asking
    prompt: Prompt
    media: tuple[Hashable, ...]
    settings: GenerationSettings
    choices: int = 1
    told: int | None = None
    grows: bool = False
    blocks: Sequence[Tensor] = ()
    prefix: Prefix | None = None
    left: bool = False
    answers: list[AnswerInProgress] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)
    found: bool = False
    known: int = 0

    @cached_property
    def key(self) -> Hashable:
        """What makes the beginnings of two prompts, up to their last medium, equal."""
        return prefix_key(self.prompt, self.media, self.prompt.media_end)

    @property
    def cached(self) -> int:
        """Number of tokens of the prompt that do not pass through the model for this question."""
        return self.known + (self.prompt.media_end if self.found else 0)

    def said(self, answer: AnswerInProgress) -> np.ndarray:
        """Ids and positions of what follows the prefix, without the last token of an answer. Shape: (1 + axes, S)"""
        ids = np.array(answer.token_ids[:-1], self.prompt.tokens.dtype)
        positions = self.prompt.positions.next + np.arange(len(ids))
        heard = np.vstack((ids, *[positions] * (len(self.prompt.tokens) - 1)))
        return np.hstack((self.prompt.tokens[:, self.prompt.media_end :], heard))

    @property
    def stored(self) -> int:
        """Largest number of tokens whose keys and values are stored for each answer, beside the prefix."""
        return len(self.prompt.ids) - self.prompt.media_end + self.prompt.max_new_tokens


@dataclass(frozen=True)
class Progress:
    """News of one answer of a question.

    Args:
        choice: number of the answer.
        text: what was added to its text.
        logprobs: of the tokens that were added.
        answer: the whole answer, when it is finished.
    """

    question: Question
    choice: int
    text: str = ""
    logprobs: Sequence[TokenLogprobs] = ()
    answer: Answer | None = None


def not_finite(model: VideoLM, tokens: int, streams: Sequence[str]) -> str:
    """Reason why there is no answer where the logits hold NaN or Inf, with the likely causes.

    Args:
        tokens: number of tokens that the answer had before.
        streams: streams whose embeddings are not finite.
    """
    where = f"already in the embeddings of stream {', '.join(streams)}" if streams else f"after {tokens} tokens"
    dtype = model.language_model.dtype
    causes = "a weight, a feature file or a value of the medium that is not finite, or too large"
    if dtype == torch.float16:
        return (
            f"the model computes no numbers but NaN or Inf ({where}): most likely too large for float16; "
            f"use dtype bfloat16 or float32 (else: {causes})"
        )
    return f"the model computes no numbers but NaN or Inf ({where}), in {str(dtype)[6:]}: {causes}; check these files"
