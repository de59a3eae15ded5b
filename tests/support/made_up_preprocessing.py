"""Made-up preprocessing that gives extras: a text file of numbers becomes rows, and tells the second of each row."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from vidtune.errors import MediaError
from vidtune.media.probe import MediaInfo


class TimedRows(BaseModel):
    """Rows of numbers, (R, 3). The seconds of the rows are extras; the extra ``shift`` is added to each."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["timed_rows"] = "timed_rows"
    rows: int = 4

    def output_shape(self, info: MediaInfo | None = None) -> tuple[int, int]:
        return (self.rows, 3)

    def output_shapes(self) -> list[tuple[int, ...]]:
        return [self.output_shape()]

    def to_float(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def load_item(
        self, path: str, extras: Mapping[str, np.ndarray], seed: int | None = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        if not Path(path).is_file():
            raise MediaError(path, "is not there")
        values = np.array([float(word) for word in Path(path).read_text().split()], np.float32).reshape(self.rows, 3)
        seconds = values[:, 0] + float(extras.get("shift", 0.0))
        return values, {"seconds": seconds.astype(np.float32), **extras}
