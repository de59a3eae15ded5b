"""A chat model behind an OpenAI-compatible endpoint as a model that answers benchmarks."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from vidtune.errors import UserError
from vidtune.evaluation.judges.address import OPENAI_URL, api_address, api_key, is_model_name, key_variable, shown
from vidtune.evaluation.judges.limits import Limits, Prices
from vidtune.evaluation.models.base import Engine, EvaluatedModel
from vidtune.evaluation.protocol import Protocol
from vidtune.evaluation.runs.checkpoint_identity import CheckpointIdentity

if TYPE_CHECKING:
    from vidtune.evaluation.benchmarks.base import Benchmark
    from vidtune.evaluation.checkpoint import AnsweringOptions

FRAMES = {"given": "images", "max_side": 768, "quality": 90}
"""How frames are sent unless the protocol says otherwise: as JPEG pictures."""
LIMITS = Limits(timeout=300.0, attempts=4)
MESSAGES = "chat_messages"
"""Name of the prompt format: one user message with the media and the question."""


class Endpoint(EvaluatedModel):
    """A chat model that takes pictures, or videos.

    Args:
        model: name of the model at the endpoint.
        base_url: address of the API; None: OpenAI's.
        api_key_env: environment variable that holds the key. None: ``OPENAI_API_KEY`` for OpenAI itself, no key for any
            other address. The key itself is never stored.
        limits: requests under way at a time, repetitions, time, number of requests and cost.
        prices: needed to compute a cost, and for ``limits.max_cost``.
        parameters: further fields of every request, such as ``{"reasoning_effort": "low"}``; they replace those that
            the protocol gives, and None leaves a field out, as of an endpoint that refuses ``max_tokens``.

    Raises:
        UserError: no name of a model, no address, or a limit of cost without prices.

    Example:
        >>> model = vidtune.Endpoint("my-model", base_url="http://localhost:8000/v1")
        >>> model.identity.path
        'my-model at http://localhost:8000/v1'
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key_env: str | None = None,
        limits: Limits = LIMITS,
        prices: Prices | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        if not is_model_name(model):
            raise UserError(f"model {model!r}: expected the name of a chat model")
        if limits.max_cost is not None and prices is None:
            raise UserError("a cost limit needs the prices per million tokens; give both")
        self.model, self.limits, self.prices = model, limits, prices
        self.base_url = (base_url or OPENAI_URL).rstrip("/")
        self.shown_url = shown(api_address(self.base_url, "endpoint"))
        self.api_key_env = api_key_env or key_variable(self.base_url)
        self.parameters = dict(parameters or {})
        self.system = "endpoint"
        named = f"{model} at {self.shown_url}"
        content = f"{named} {sorted(self.parameters.items())!r}" if self.parameters else named
        fingerprint = hashlib.sha256(content.encode()).hexdigest()[:16]
        self.identity = CheckpointIdentity(path=named, fingerprint=fingerprint)

    @property
    def name(self) -> str:
        """The model and where it is, for messages."""
        return f"model {self.model} at {self.shown_url}"

    def key(self) -> str:
        """The API key. Raises UserError where it is missing or cannot be sent."""
        return api_key(self.api_key_env, f"the model {self.model}")

    def protocol(
        self,
        benchmark: "Benchmark",
        *,
        blind: bool = False,
        without: Sequence[str] = (),
        features: Sequence[str] = (),
        overrides: Mapping[str, Any] | None = None,
    ) -> Protocol:
        from vidtune.evaluation.models.rules import protocol_by_frames  # weight: torch

        protocol, rule = protocol_by_frames(
            benchmark,
            MESSAGES,
            FRAMES,
            self.system,
            blind=blind,
            without=without,
            features=features,
            overrides=overrides,
        )
        if protocol.choices is not None and protocol.by_likelihood:
            raise UserError(
                f"{benchmark.name}: choices.answering={protocol.choices.answering}: an endpoint tells no likelihoods; "
                "leave it at text"
            )
        if protocol.generation.top_k:
            raise UserError(f"{benchmark.name}: generation.top_k: the chat API has no such setting; leave it at 0")
        if not rule.quality:
            raise UserError(f"{benchmark.name}: preprocessing.quality is 0; JPEG needs 1 to 100")
        return protocol

    def engine(self, protocol: Protocol, options: "AnsweringOptions") -> AbstractContextManager[Engine]:
        from vidtune.evaluation.models.endpoint_engine import EndpointEngine

        return EndpointEngine(self, protocol, options)
