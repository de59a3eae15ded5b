"""Settings of a stream: its preprocessing, its placeholder, and how many tokens its items become."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from vidtune.media.preprocessing.kinds import Preprocessing


class StreamSettings(BaseModel):
    """What the processor needs to know of a stream; saved in ``processor_config.json``.

    Args:
        preprocessing: file -> tensor.
        placeholder_id: token id that stands for one media token; outside the vocabulary.
        num_tokens: number of tokens of one item, computed from the model's config. If it depends on the item: a mapping
            from every shape that preprocessing can return ("3x8x252x448") to a number; or, if items may have any number
            of rows (their first dimension), the number of tokens per row as a fraction ("1500/256"), the product
            rounded down.
        num_placeholders: number of tokens that one item adds to `max_length` before its placeholder is expanded.
        max_items: largest number of items in one training sample; None means no limit.
        absent_tower: if the model comes without the tower of the stream: name of the tower, and the name under which it
            is published. Such a stream reads stored features only.
        feature_rows: number of features that a file of stored features must have; None if it depends on the item.
        feature_size: width that stored features must have; None if nothing is known of the tower.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preprocessing: Preprocessing
    placeholder_id: int
    num_tokens: PositiveInt | dict[str, PositiveInt] | Annotated[str, Field(pattern=r"^\d+(/\d+)?$")]
    num_placeholders: PositiveInt = 1
    max_items: PositiveInt | None = None
    absent_tower: tuple[str, str] | None = None
    feature_rows: PositiveInt | None = None
    feature_size: PositiveInt | None = None

    def tokens_of(self, shape: Sequence[int]) -> int:
        """Number of tokens of an item for which preprocessing returns this shape."""
        if isinstance(self.num_tokens, int):
            return self.num_tokens
        if isinstance(self.num_tokens, dict):
            return self.num_tokens["x".join(map(str, shape))]
        return int(shape[0] * Fraction(self.num_tokens))

    def tokens_of_features(self, shape: tuple[int, int]) -> int:
        """Number of tokens of an item whose tower features are stored with this shape.

        Raises:
            ValueError: the features are not those of this tower; says how they differ.
        """
        rows, width = shape
        if self.feature_size is not None and width != self.feature_size:
            raise ValueError(f"its features have width {width} where the tower gives {self.feature_size}")
        if self.feature_rows is not None and rows != self.feature_rows:
            raise ValueError(f"it holds {rows} features where the tower gives {self.feature_rows}")
        return self.num_tokens if isinstance(self.num_tokens, int) else rows


def absent_message(published: Mapping[str, str]) -> str:
    """Message for files that must be encoded by towers that the model does not have.

    Args:
        published: tower -> name under which its weights are published.
    """
    names = ", ".join(f"{name} (published as {place})" for name, place in published.items())
    options = " ".join(f"--tower {name}=PLACE" for name in published)
    return (
        f"the model comes without its towers: {names}; name their weights with {options} (towers: in a recipe), or "
        "give extracted features"
    )
