"""Answers questions by a model of transformers: its chat template, its processor, its ``generate``.

Questions are asked one at a time, so that an answer does not depend on which others are asked with it. Decoding follows
the protocol alone: of the model's own generation config only the token ids are taken.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from vidtune.errors import UserError, errors_of
from vidtune.evaluation.models.frames import FrameReader, FrameRule, QuestionGroup, SampledFrames, pieces
from vidtune.evaluation.protocol import Protocol
from vidtune.generation.settings import Answer, EngineStats, FinishReason, GenerationSettings, Request
from vidtune.generation.stopping import eos_ids

if TYPE_CHECKING:
    from types import TracebackType

    from vidtune.evaluation.checkpoint import AnsweringOptions
    from vidtune.evaluation.models.pretrained import PretrainedModel


class PretrainedEngine:
    """Answers by one protocol; a context manager.

    Args:
        asked: the model.
    """

    def __init__(self, asked: "PretrainedModel", protocol: Protocol, options: "AnsweringOptions") -> None:
        rule = FrameRule.read_rules(protocol)
        self.given = "images" if protocol.stream == "image" else rule.given
        self.name = asked.model_type
        self.model, self.processor = asked.model, asked.processor(self.given)
        self.settings = GenerationSettings(**protocol.generation.model_dump())
        self._eos_ids = eos_ids(self.model.generation_config, self.processor.tokenizer)
        self.stats = EngineStats()
        self._reader = FrameReader(rule, protocol.blind, options.workers, options.media_timeout, self.stats)

    def __enter__(self) -> "PretrainedEngine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self._reader.__exit__(kind, error, trace)

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Yields one answer per request, in their order; see `models.base.Engine`."""
        for group in self._reader.groups(requests):
            for request in group.requests:
                yield self._answer(request, group)

    def _answer(self, request: Request, group: QuestionGroup) -> Answer:
        if group.error is not None:
            return Answer.failed(request.id, group.error, group.open)
        try:
            inputs = self._inputs(request, group.shown)
            if request.options:
                return self._most_likely(request, inputs)
            return self._generated(request, inputs)
        except UserError as error:
            return Answer.failed(request.id, str(error))

    @torch.inference_mode()
    def _generated(self, request: Request, inputs: dict[str, Any]) -> Answer:
        length = inputs["input_ids"].shape[1]
        most = min(self.settings.max_new_tokens, self._room(length))
        finite = _Finite()
        self.stats.encodings += 1
        self.stats.prefills += 1
        with torch.random.fork_rng(devices=_cuda(self.model)):
            torch.manual_seed(self.settings.seed_of(request.id))
            with errors_of(f"generate of {self.name} fails"):
                tokens = self.model.generate(
                    **inputs,
                    generation_config=self._config(most),
                    logits_processor=LogitsProcessorList([finite]),
                    **({"tokenizer": self.processor.tokenizer} if self.settings.stop else {}),
                )
        if not finite.ok:
            raise UserError(
                f"the model computes no numbers but NaN or Inf, in {str(self.model.dtype)[6:]}: check its weights, or "
                "use another --dtype"
            )
        found = tokens[0].tolist()
        if len(found) > length and found[:length] == inputs["input_ids"][0].tolist():
            found = found[length:]
        text = self.processor.tokenizer.decode(found, skip_special_tokens=True).strip()
        self.stats.questions += 1
        self.stats.new_tokens += len(found)
        text, reason = self._ended(text, found, most)
        return Answer(request.id, text, tuple(found), reason)

    def _ended(self, text: str, found: list[int], most: int) -> tuple[str, FinishReason]:
        """The text up to the first stop text, and why it ended."""
        places = [place for stop in self.settings.stop if (place := text.find(stop)) >= 0]
        if places:
            return text[: min(places)].strip(), "stop"
        ended = bool(found) and found[-1] in self._eos_ids
        return text, "eos" if ended or len(found) < most else "length"

    @torch.inference_mode()
    def _most_likely(self, request: Request, inputs: dict[str, Any]) -> Answer:
        """The first of the options with the largest mean logarithm of probability over its tokens."""
        likelihoods = []
        for option in request.options:
            ids = self.processor.tokenizer(option, add_special_tokens=False)["input_ids"]
            if not ids:
                raise UserError("one of its options is empty; its likelihood cannot be computed")
            self._room(inputs["input_ids"].shape[1] + len(ids) - 1)
            self.stats.encodings += 1
            self.stats.prefills += 1
            with errors_of(f"the forward pass of {self.name} fails"):
                logits = self.model(**_extended(inputs, ids), use_cache=False).logits[0, -len(ids) - 1 : -1]
            each = logits.float().log_softmax(-1)
            likelihoods.append(float(each[range(len(ids)), ids].mean()))
        if not all(map(torch.isfinite, torch.tensor(likelihoods))):
            raise UserError("the model computes no numbers but NaN or Inf: check its weights, or use another --dtype")
        self.stats.questions += 1
        best = max(range(len(likelihoods)), key=likelihoods.__getitem__)
        return Answer(request.id, request.options[best], (), "option", likelihoods=tuple(likelihoods))

    def _inputs(self, request: Request, shown: list[SampledFrames]) -> dict[str, Any]:
        """What the processor makes of a question, on the device of the model."""
        content: list[dict[str, Any]] = []
        videos: list[SampledFrames] = []
        images: list[Any] = []
        for piece in pieces(request):
            if isinstance(piece, str):
                content.append({"type": "text", "text": piece})
            elif self.given == "video" and not shown[piece].picture:
                content.append({"type": "video"})
                videos.append(shown[piece])
            else:
                content += [{"type": "image"}] * len(shown[piece].frames)
                images += list(shown[piece].frames)
        if not any(part["type"] == "text" for part in content):
            raise UserError("the question is empty; ask something")
        with errors_of(f"the processor of {self.name} fails"):
            text = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            inputs = self.processor(
                text=[text],
                **({"images": [images]} if images else {}),
                **(_video_arguments(videos) if videos else {}),
                text_kwargs={"add_special_tokens": not self._begins_itself(text)},
                return_tensors="pt",
            )
        return {**inputs.to(self.model.device, self.model.dtype)}

    def _begins_itself(self, text: str) -> bool:
        """Whether a prompt has its beginning-of-text token already."""
        begin = self.processor.tokenizer.bos_token
        return begin is not None and text.startswith(begin)

    def _config(self, most: int) -> GenerationConfig:
        own, settings = self.model.generation_config, self.settings
        sampling = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k}
        eos = sorted(self._eos_ids) or None
        return GenerationConfig(
            max_new_tokens=most,
            do_sample=not settings.greedy,
            **({} if settings.greedy else sampling),
            **({"stop_strings": list(settings.stop)} if settings.stop else {}),
            eos_token_id=eos,
            pad_token_id=own.pad_token_id if own.pad_token_id is not None else eos[0] if eos else None,
            bos_token_id=own.bos_token_id,
        )

    def _room(self, length: int) -> int:
        """Number of tokens for an answer. Raises UserError where there is none."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        room = self.settings.max_new_tokens if limit is None else limit - length
        if room < 1:
            raise UserError(
                f"the prompt has {length} tokens and the model's context {limit}: no room for an answer; "
                "ask a shorter question or about fewer frames"
            )
        return room


class _Finite(LogitsProcessor):
    """Notes whether all logits were numbers."""

    def __init__(self) -> None:
        self.ok = True

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.ok &= not bool((scores.isnan() | scores.isposinf()).any())
        return scores.nan_to_num() if not self.ok else scores


def _video_arguments(videos: list[SampledFrames]) -> dict[str, Any]:
    """Arguments of the processor for videos: they are sampled already, at these places of the clip."""
    metadata = [
        {
            "total_num_frames": one.info.num_frames,
            "fps": one.fps,
            "duration": one.duration,
            "width": one.frames.shape[2],
            "height": one.frames.shape[1],
            "frames_indices": list(one.indices),
        }
        for one in videos
    ]
    settings = {"do_sample_frames": False, "video_metadata": metadata, "input_data_format": "channels_last"}
    return {"videos": [one.frames for one in videos], "videos_kwargs": settings}


def _extended(inputs: dict[str, Any], ids: list[int]) -> dict[str, Any]:
    """The inputs of a prompt that goes on with these tokens, all of them text."""
    prompt = inputs["input_ids"]
    new = torch.tensor([ids], device=prompt.device)
    longer = {"input_ids": torch.cat([prompt, new], 1), "attention_mask": torch.ones_like(new)}
    found = dict(inputs)
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor) and value.shape == prompt.shape and name != "input_ids":
            tail = longer["attention_mask"] if name == "attention_mask" else torch.zeros_like(new)
            found[name] = torch.cat([value, tail.to(value.dtype)], 1)
    found["input_ids"] = longer["input_ids"]
    return found


def _cuda(model: Any) -> list[torch.device]:
    return [model.device] if model.device.type == "cuda" else []
