"""What is asked of a model: requests as prompts, answers that begin, and why there is none."""

from collections.abc import Sequence
from functools import partial

import torch

from vidtune.data.problems import SampleProblem
from vidtune.errors import UserError
from vidtune.generation.grouping import Prompt
from vidtune.generation.limits import context_length
from vidtune.generation.settings import Answer, GenerationSettings, Request
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
