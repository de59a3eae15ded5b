"""The vectors of media and captions, by the towers and the text tower of a contrastive stage, as answers."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from vidtune.checkpoints.parts.contrast import load_contrast
from vidtune.errors import UserError
from vidtune.evaluation.checkpoint import AnsweringOptions, LoadedCheckpoint, engine_for
from vidtune.evaluation.metrics.retrieval import written_vectors
from vidtune.evaluation.protocol import Protocol
from vidtune.generation.engine import AnswerEngine
from vidtune.generation.grouping import MediaGroup, Prompt
from vidtune.generation.settings import Answer, Request
from vidtune.models.text_alignment.contrast import Contrast
from vidtune.processing.captions import CaptionTokenizer


class VectorEngine(AnswerEngine):
    """Engine whose answer to a caption is its vector and that of its medium, see `metrics.retrieval`.

    Media are read and grouped as for answers; no language model runs.

    Args:
        contrast: what the towers were compared with.
        captions: tokenizer of its text tower.
        stream: stream that reads the media.
        arguments: those of :class:`AnswerEngine`.
    """

    def __init__(
        self, *arguments: Any, contrast: Contrast, captions: CaptionTokenizer, stream: str, **named: Any
    ) -> None:
        super().__init__(*arguments, **{**named, "share_prefix": True})
        self._contrast, self._captions, self._stream = contrast.to(self.model.device).eval(), captions, stream
        self._texts: dict[str, str] = {}

    def _prepare(self, request: Request) -> Prompt | Answer:
        example = self._asking.example(request)
        if isinstance(example, Answer):
            return example
        self._texts[request.id] = request.question
        media_ids, _ = self.processor.split_at_media(example)
        return Prompt(example, len(media_ids), 1)

    @torch.inference_mode()
    def _answer_group(self, group: MediaGroup) -> Iterator[Answer]:
        if not group.prompts:
            return
        ids = [torch.from_numpy(self._captions(self._texts.pop(one.example.id))) for one in group.prompts]
        media = self._contrast.media(self.model, self._stream, self._items(group)[self._stream])[0].cpu().numpy()
        texts = self._contrast.texts([one.to(self.model.device) for one in ids]).cpu().numpy()
        for prompt, text in zip(group.prompts, texts, strict=True):
            self.stats.questions += 1
            yield Answer(prompt.example.id, written_vectors(media, text), (), "forced")


def vector_engine(loaded: LoadedCheckpoint, protocol: Protocol, options: AnsweringOptions) -> AnswerEngine:
    """Returns the engine that gives the vectors of the pairs of a protocol. Close it after use.

    Raises:
        UserError: the checkpoint has no text tower beside it, or it was not compared with media of this stream.
    """
    contrast, captions = load_contrast(loaded.identity.path)
    if protocol.stream not in contrast.config.projections:
        raise UserError(f"{loaded.identity.path}: its stage compared no media of stream {protocol.stream!r} with texts")
    kind = partial(VectorEngine, contrast=contrast, captions=captions, stream=protocol.stream)
    return engine_for(loaded, protocol, options, kind)
