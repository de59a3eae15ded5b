"""How numbers are written on the page: shares in percent, other metrics on their own scale."""

from dataclasses import dataclass

from vidtune.evaluation.outcome import Metric
from vidtune.evaluation.statistics import Estimate

NOTHING = "–"


@dataclass(frozen=True)
class Shown:
    """A metric as the page writes it.

    Args:
        name: name of the metric in scores.
        factor: what stored values are multiplied by.
        top: largest possible value, after that.
        digits: digits behind the point.
    """

    name: str
    factor: float
    top: float
    digits: int

    @classmethod
    def of(cls, metric: Metric) -> "Shown":
        """Values from 0 to 1 are written in percent."""
        top = metric.highest * metric.scale
        factor = 100.0 if metric.is_share else 1.0
        return cls(metric.name, factor, top * factor, 1 if top * factor >= 50 else 2)

    @property
    def label(self) -> str:
        """Name with the unit, such as ``accuracy, %``."""
        words = self.name.replace("_", " ") if self.name.islower() else self.name
        return f"{words}, %" if self.top == 100 else f"{words}, 0–{self.top:g}"

    def scaled(self, estimate: Estimate | None) -> Estimate | None:
        """The estimate on the scale of the page."""
        return None if estimate is None else estimate.scaled(self.factor)

    def text(self, value: float | None, sign: bool = False) -> str:
        """A value that is on the scale of the page already."""
        if value is None:
            return NOTHING
        return f"{value:{'+' if sign else ''}.{self.digits}f}".replace("-", "−")

    def stored(self, value: float | None) -> str:
        """A value as it is stored."""
        return NOTHING if value is None else self.text(value * self.factor)

    def interval(self, estimate: Estimate | None, sign: bool = False) -> str:
        """The interval of an estimate on the scale of the page, or why there is none; empty without an estimate."""
        if estimate is None:
            return ""
        if estimate.low is None:
            return estimate.without_interval
        return f"[{self.text(estimate.low, sign)}, {self.text(estimate.high, sign)}]"
