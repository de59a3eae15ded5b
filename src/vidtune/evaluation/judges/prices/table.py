"""Reads price tables: YAML lists of ``{model, input, output, currency, url, source, date}``, per million tokens."""

import datetime
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vidtune.errors import UserError
from vidtune.evaluation.judges.address import OPENAI_URL
from vidtune.evaluation.judges.limits import Prices
from vidtune.foreign.yaml_document import parse_yaml, read_yaml
from vidtune.recipe.mistakes import first_mistake

VARIABLE = "VIDTUNE_PRICES"
_SHIPPED = "prices.yaml"


class Price(BaseModel):
    """Price of a model.

    Args:
        input, output: price of a million prompt and completion tokens.
        currency: such as "USD".
        url: the endpoint that takes this price; None: any.
        source, date: where it stands, and of when it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str
    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)
    currency: str = "USD"
    url: str | None = None
    source: str = ""
    date: datetime.date | None = None


def prices_of(model: str, url: str | None = None, table: Path | None = None) -> Prices | None:
    """Returns what a model costs; None: no table says it.

    Args:
        url: address of its endpoint; None: OpenAI's.
        table: a table of the user, which is read before the shipped one.

    Raises:
        UserError: the table cannot be read, or an entry is no price.
    """
    asked = (url or OPENAI_URL).rstrip("/")
    own = _entries(str(table), read_yaml(table).value) if table else ()
    for price in (*own, *_entries(_SHIPPED, parse_yaml(_shipped(), _SHIPPED).value)):
        if price.model == model and (price.url is None or price.url.rstrip("/") == asked):
            where = ", ".join(filter(None, (price.source, price.date and price.date.isoformat())))
            return Prices(price.input, price.output, price.currency, where)
    return None


def _shipped() -> str:
    return resources.files(__package__).joinpath(_SHIPPED).read_text(encoding="utf-8")


def _entries(name: str, entries: Any) -> Iterator[Price]:
    if not isinstance(entries, list):
        raise UserError(f"{name}: expected a list of prices, each with model, input and output")
    for number, entry in enumerate(entries, start=1):
        try:
            yield Price.model_validate(entry)
        except ValidationError as error:
            raise UserError(f"{name}: entry {number}: {first_mistake(error)}") from None
