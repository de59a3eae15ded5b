"""Reads price tables: YAML lists of ``{model, input, output, currency, url, source, date}``, per million tokens."""

import datetime
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vidtune.errors import UserError
from vidtune.evaluation.judges.address import OPENAI_URL
from vidtune.evaluation.judges.limits import Prices
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
    for price in (*(_entries(table.name, _text(table)) if table else ()), *_entries(_SHIPPED, _shipped())):
        if price.model == model and (price.url is None or price.url.rstrip("/") == asked):
            where = ", ".join(filter(None, (price.source, price.date and price.date.isoformat())))
            return Prices(price.input, price.output, price.currency, where)
    return None


def _text(table: Path) -> str:
    try:
        return table.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{table}: cannot be read as a price table ({error})") from None


def _shipped() -> str:
    return resources.files(__package__).joinpath(_SHIPPED).read_text(encoding="utf-8")


def _entries(name: str, text: str) -> Iterator[Price]:
    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{name}: no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(entries, list):
        raise UserError(f"{name}: expected a list of prices, each with model, input and output")
    for number, entry in enumerate(entries, start=1):
        try:
            yield Price.model_validate(entry)
        except ValidationError as error:
            raise UserError(f"{name}: entry {number}: {first_mistake(error)}") from None
