"""The model `vidtune` of lmms-eval (github.com/EvolvingLMMs-Lab/lmms-eval, 0.7): its tasks, answered by our engine.

lmms-eval finds it by the entry point of the group ``lmms_eval.models``. Requests are answered sorted by their media, so
that a video is decoded, encoded and run through the language model once for all questions about it; the answers come
back in the order of the requests.
"""

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidtune.api.questions import load
from vidtune.errors import UserError
from vidtune.generation.settings import Answer, GenerationSettings, Request
from vidtune.integrations.chat_messages import request_of

try:
    from lmms_eval.api.model import lmms
except ImportError:  # without lmms-eval nobody asks for the model; the rest of this file works all the same
    lmms = object

MAX_NEW_TOKENS = 1024
"""Length of an answer where a task does not say it."""
_DECODING = ("max_new_tokens", "temperature", "top_p", "top_k", "seed")
_WITHOUT_EFFECT = ("do_sample", "num_beams", "until", "image_aspect_ratio")


def manifests() -> Any:
    """What lmms-eval registers: the model `vidtune`, which takes chat messages."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("vidtune", chat_class_path=f"{__name__}.VidtuneModel")


@dataclass(frozen=True)
class _Asked:
    """A request to the engine, and how it is to be decoded."""

    request: Request
    settings: GenerationSettings


class VidtuneModel(lmms):
    """A checkpoint of any format that vidtune reads.

    Args:
        pretrained: folder, file or hub id.
        revision, system, base, tokenizer, dtype: see `vidtune.load`.
        device: of torch; None: a GPU when there is one, under a launcher the one of this process.
        batch_size: largest number of questions about the same media that are answered at a time.
        max_batch_size: not used; lmms-eval gives it.
        prompt: name of a prompt format; None: the system's own for answering.
        max_num_frames: largest number of frames of a video; None: that of the checkpoint.
        workers: number of processes that decode.
        media_timeout: seconds that one file may take.
        use_until: end answers at the texts of ``until``. lmms-eval gives an empty line to tasks that name none, and the
            models that it brings ignore it.
        on_error: "raise" ends the run, after all other questions were asked, when a question could not be answered;
            "empty" gives an empty answer and a warning.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        revision: str | None = None,
        system: str | None = None,
        base: str | None = None,
        tokenizer: str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int | str = 8,
        max_batch_size: int | None = None,
        prompt: str | None = None,
        max_num_frames: int | None = None,
        workers: int = 1,
        media_timeout: float = 60.0,
        use_until: bool = False,
        on_error: str = "raise",
    ) -> None:
        super().__init__()
        if on_error not in ("raise", "empty"):
            raise UserError(f"on_error is {on_error!r}; use raise or empty")
        self.task_dict: dict[str, Any] = {}
        self.device = _device(device)
        self.model = load(
            str(pretrained),
            revision=revision,
            system=system,
            base=base,
            tokenizer=tokenizer,
            device=self.device,
            dtype=dtype,
        )
        self.batch_size = int(batch_size)
        self.prompt, self.use_until, self.on_error = prompt, use_until, on_error
        self.workers, self.media_timeout = workers, media_timeout
        self.processor = self.model.processor
        if max_num_frames is not None:
            self.processor = self.processor.with_preprocessing({"video": {"num_frames": max_num_frames}})
        self._images = tempfile.TemporaryDirectory(prefix="vidtune-lmms-eval-")

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Returns the answers to requests of lmms-eval, in their order.

        Raises:
            UserError: a request asks for what this model cannot do, or a question could not be answered.
        """
        asked = [self._asked(str(number), *one.args) for number, one in enumerate(requests)]
        groups: dict[GenerationSettings, list[Request]] = {}
        for one in asked:
            groups.setdefault(one.settings, []).append(one.request)
        answers: dict[str, Answer] = {}
        for settings, mine in groups.items():
            answers |= self._answers(settings, mine)
        self._check(answers, requests)
        return [answers[one.request.id].text for one in asked]

    def loglikelihood(self, requests: Sequence[Any]) -> Any:
        raise NotImplementedError("vidtune: tasks that compare probabilities of answers (loglikelihood)")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> Any:
        raise NotImplementedError("vidtune: tasks of several rounds")

    def _asked(
        self, id: str, context: str, messages_of: Any, generation: Mapping[str, Any], doc_id: int, task: str, split: str
    ) -> _Asked:
        messages = messages_of(self.task_dict[task][split][doc_id])
        try:
            request = request_of(id, messages, Path(self._images.name))
            return _Asked(request, settings_of(generation, self.use_until))
        except UserError as error:
            raise UserError(f"task {task}, document {doc_id}: {error}") from None

    def _answers(self, settings: GenerationSettings, requests: Sequence[Request]) -> dict[str, Answer]:
        from vidtune.generation.engine import AnswerEngine
        from vidtune.registry import SYSTEMS

        prompt = self.prompt or SYSTEMS[self.model.system].dialect.answering_prompt
        order = sorted(requests, key=lambda request: [(ref.stream, ref.path) for ref in request.media])
        with AnswerEngine(
            self.model.network,
            self.processor,
            settings,
            prompt=prompt,
            workers=self.workers,
            media_timeout=self.media_timeout,
            max_batch_questions=self.batch_size,
        ) as engine:
            found = {answer.id: answer for answer in engine.answer(order)}
            self.stats = engine.stats
        return found

    def _check(self, answers: Mapping[str, Answer], requests: Sequence[Any]) -> None:
        failed = [answer for answer in answers.values() if answer.error is not None]
        if not failed:
            return
        *_, doc_id, task, _ = requests[int(failed[0].id)].args
        message = f"{len(failed)} questions have no answer; first: task {task}, document {doc_id}: {failed[0].error}"
        if self.on_error == "raise":
            raise UserError(f"{message} (model_args on_error=empty counts them as empty answers)")
        logging.getLogger(__name__).warning("vidtune: %s", message)


def settings_of(generation: Mapping[str, Any], use_until: bool) -> GenerationSettings:
    """How an answer is decoded by the ``generation_kwargs`` of a task; a temperature above 0 draws tokens.

    Raises:
        UserError: a setting that this engine does not have.
    """
    if generation.get("num_beams") not in (None, 1):
        raise UserError(f"num_beams is {generation['num_beams']}: there is no beam search; use 1 in --gen_kwargs")
    known = (*_DECODING, *_WITHOUT_EFFECT)
    if unknown := sorted(set(generation) - set(known)):
        raise UserError(f"unknown generation setting {unknown[0]!r}; known: {', '.join(known)}")
    draws = bool(generation.get("temperature")) and generation.get("do_sample") is not False
    values = {name: generation[name] for name in _DECODING if generation.get(name) is not None}
    if not draws:
        values = {name: value for name, value in values.items() if name == "max_new_tokens"}
    until = generation.get("until") if use_until else None
    stop = [until] if isinstance(until, str) else [text for text in until or () if text]
    return GenerationSettings(**{"max_new_tokens": MAX_NEW_TOKENS, **values}, do_sample=draws, stop=tuple(stop))


def _device(given: str | None) -> str | None:
    """The device of this process: under a launcher of several processes each has its own GPU."""
    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if given == "cuda" and rank is not None else given
