"""Values of the API: what a request may hold."""

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vidtune.errors import UserError
from vidtune.foreign.documents import JsonError, parse_json
from vidtune.generation.settings import MOST, GenerationSettings
from vidtune.serving.problems import ApiProblem

MOST_CHOICES = 16
MOST_LOGPROBS = 20
MOST_STOPS = 16
DEFAULT_TOKENS = 256
"""As that of `vidtune answer`."""
UNSUPPORTED: dict[str, Any] = {
    "tools": None,
    "functions": None,
    "logit_bias": {},
    "presence_penalty": 0,
    "frequency_penalty": 0,
}
"""Known parameter that is not supported -> the only other value than null that changes nothing."""
WITHOUT_MEANING = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "parallel_tool_calls",
    "tool_choice",
    "safety_identifier",
)
"""Known parameters that change no answer here."""


_Model = TypeVar("_Model", bound=BaseModel)


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Box(_Value):
    """A box in a video, for systems that are asked about one; its tag, such as ``<box>``, stands in the question.

    Args:
        box: four numbers, see ``form``.
        seconds, frame: moment of the box: seconds, or the number of the frame from 0.
        form: ``xyxy`` or ``xywh`` in pixels, ``xyxy_fraction`` or ``xywh_fraction`` in fractions of the frame.
    """

    box: list[float] = Field(min_length=4, max_length=4)
    seconds: float | None = None
    frame: int | None = None
    form: str = "xyxy"


class Medium(_Value):
    """Where a video or image is, and how it is read: the value of ``video_url`` and ``image_url``.

    Args:
        url: ``data:`` with base64, the id of a file that was sent before, an address of an allowed host, or a path
            below the media root.
        start, end: seconds between which a video is read; None: from its start, to its end.
        frames: number of frames that are read of a video; None: as many as the model takes.
        frames_at: seconds whose frames are read, in the place of those.
        box: what ``<box>`` in the questions is about.
        detail: of OpenAI's API; changes nothing, since a model has one size of pictures.
    """

    url: str
    start: float | None = Field(None, ge=0, allow_inf_nan=False)
    end: float | None = Field(None, gt=0, allow_inf_nan=False)
    frames: int | None = None
    frames_at: list[float] | None = None
    box: Box | None = None
    detail: str | None = None


class Part(_Value):
    """One part of a message: a text, an image or a video."""

    type: Literal["text", "image_url", "video_url"]
    text: str | None = None
    image_url: Medium | None = None
    video_url: Medium | None = None

    @property
    def medium(self) -> Medium | None:
        """The medium of the part; None: it is a text, or says nothing of what its type promises."""
        return {"image_url": self.image_url, "video_url": self.video_url}.get(self.type)

    @property
    def complete(self) -> bool:
        """Whether the part holds what its type says, and nothing else."""
        given = {name for name in ("text", "image_url", "video_url") if getattr(self, name) is not None}
        return given == {self.type}


class Message(_Value):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None
    refusal: str | None = None

    @property
    def parts(self) -> list[Part]:
        return [Part(type="text", text=self.content)] if isinstance(self.content, str) else self.content


class FramesRequest(_Value):
    """Body of ``POST /v1/frames``: a medium as in a message."""

    model: str
    medium: Part


class StreamOptions(_Value):
    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(_Value):
    """Body of ``POST /v1/chat/completions``. What is left out is as in `vidtune answer`: greedy, at most 256 tokens.

    Args:
        prompt: name of a prompt format of the model's system; None: that for answering.
    """

    model: str
    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=MOST)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST)
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    response_format: dict[str, Any] | None = None
    prompt: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(found)

    def settings(self, seed: int) -> GenerationSettings:
        """How the answer is decoded; ``seed``: that of a request which gives none.

        Raises:
            ApiProblem: a value with which nothing can be decoded, such as a temperature of 1e-40.
        """
        temperature = self.temperature or 0.0
        try:
            return GenerationSettings(
                max_new_tokens=self.max_completion_tokens or self.max_tokens or DEFAULT_TOKENS,
                do_sample=temperature > 0,
                temperature=temperature,
                top_p=1.0 if self.top_p is None else self.top_p,
                seed=seed if self.seed is None else self.seed,
                stop=self.stops,
            )
        except UserError as error:
            message = str(error).removeprefix("generation: ")
            raise ApiProblem(400, message, code="invalid_value", param=message.partition(" ")[0]) from None


def chat_request(body: bytes) -> ChatRequest:
    """Returns the request that a body holds.

    Raises:
        ApiProblem: no JSON, a missing or unknown key, a value of a wrong type or out of range, or a parameter that is
            not supported.
    """
    given = parsed(body)
    for name in WITHOUT_MEANING:
        given.pop(name, None)
    for name, neutral in UNSUPPORTED.items():
        value = given.pop(name, None)
        if value is not None and value != neutral:
            raise ApiProblem(400, f"{name} is not supported; leave it out", code="unsupported_parameter", param=name)
    request = validated(ChatRequest, given)
    if (request.response_format or {"type": "text"}).get("type") != "text":
        message = "response_format is not supported, except text; ask for the form in words"
        raise ApiProblem(400, message, code="unsupported_parameter", param="response_format")
    if len(request.stops) > MOST_STOPS or not all(request.stops):
        raise ApiProblem(400, f"stop: give 1 to {MOST_STOPS} texts, none of them empty", param="stop")
    if request.top_logprobs and not request.logprobs:
        raise ApiProblem(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    return request


def parsed(body: bytes) -> dict[str, Any]:
    """Returns the object that a body holds. Raises ApiProblem for anything else."""
    try:
        given = parse_json(body)
    except JsonError as error:
        raise ApiProblem(400, f"the body: {error}", code="invalid_json") from None
    if not isinstance(given, dict):
        raise ApiProblem(400, "the body is JSON, but no object", code="invalid_json")
    return given


def validated(kind: type[_Model], given: dict[str, Any]) -> _Model:
    """Returns a value of the API. Raises ApiProblem that names the first wrong key."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = max(error.errors(include_url=False), key=lambda one: len(one["loc"]))  # the kind that was meant
        where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"] if _is_key(key))
        where = where.removeprefix(".") or "the body"
        if first["type"] == "extra_forbidden":
            raise ApiProblem(400, f"unknown key {where}", code="unknown_parameter", param=where) from None
        raise ApiProblem(400, f"{where}: {first['msg']}", code="invalid_value", param=where) from None


def _is_key(key: object) -> bool:
    """Whether a place in a pydantic error is a key or index; else it names a type of a union."""
    return isinstance(key, int) or not (key in ("str", "float", "int") or str(key).startswith("list["))
