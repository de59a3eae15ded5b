"""Options of a model behind an endpoint, which answers in the place of a checkpoint."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidtune.cli.options.judging import AMOUNT, prices_from
from vidtune.cli.options.loading import assignments, limit_of
from vidtune.errors import UserError
from vidtune.foreign.documents import JsonError, parse_json

if TYPE_CHECKING:
    from vidtune.evaluation.models.endpoint import Endpoint


@dataclass(frozen=True)
class EndpointOptions:
    """The options that name a model behind an endpoint."""

    model: Annotated[
        str | None, typer.Option("--model", help="Ask this model of an endpoint, in the place of a checkpoint.")
    ] = None
    endpoint: Annotated[
        str | None, typer.Option(help="Its OpenAI-compatible API; default: OpenAI's, with OPENAI_API_KEY.")
    ] = None
    endpoint_key: Annotated[
        str | None, typer.Option(metavar="VARIABLE", help="Environment variable that holds the API key.")
    ] = None
    endpoint_field: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=JSON", help="Further field of every request; null leaves one out. Repeatable."),
    ] = None
    endpoint_prices: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="IN OUT", callback=AMOUNT, help="Price of a million prompt and completion tokens."),
    ] = None
    endpoint_max_cost: Annotated[
        float | None,
        typer.Option(
            callback=AMOUNT, help="Stop before this cost, earlier sessions included, in the currency of the prices."
        ),
    ] = None
    endpoint_max_calls: Annotated[int | None, typer.Option(min=0, help="Stop before this many requests.")] = None
    endpoint_failures: Annotated[
        int, typer.Option(min=0, help="Stop after this many failures of one kind in a row; 0: never.")
    ] = 5
    endpoint_concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at a time.")] = 8
    endpoint_timeout: Annotated[float, typer.Option(callback=limit_of, help="Seconds one request may take.")] = 300.0

    def build(self, checkpoint: str | None, prices: Path | None = None) -> "Endpoint | None":
        """The model behind an endpoint; None: none is named, a checkpoint answers.

        Args:
            prices: a table of prices of the user.

        Raises:
            UserError: neither a checkpoint nor a model is named, or both, or a model that cannot be asked.
        """
        if self.model is None:
            if self.endpoint is not None:
                raise UserError(f"--endpoint {self.endpoint}: name the model to ask there with --model NAME")
            if checkpoint is None:
                raise UserError("name a checkpoint, or a model behind an endpoint: --model NAME --endpoint URL")
            return None
        if checkpoint is not None:
            raise UserError(f"{checkpoint} and --model {self.model}: only one of them can answer")
        from vidtune.evaluation.models.endpoint import LIMITS, Endpoint

        endpoint = Endpoint(
            self.model,
            base_url=self.endpoint,
            api_key_env=self.endpoint_key,
            limits=replace(
                LIMITS,
                concurrency=self.endpoint_concurrency,
                failures=self.endpoint_failures or None,
                max_calls=self.endpoint_max_calls,
                max_cost=self.endpoint_max_cost,
                timeout=self.endpoint_timeout,
            ),
            prices=prices_from(self.endpoint_prices, self.model, self.endpoint, prices),
            parameters={name: _json(text) for name, text in self._fields().items()},
        )
        endpoint.key()
        return endpoint

    def _fields(self) -> dict[str, str]:
        return assignments(self.endpoint_field, "--endpoint-field")


def _json(text: str) -> Any:
    """The value of a field of requests; what is no JSON is a text."""
    try:
        return parse_json(text)
    except JsonError:
        return text
