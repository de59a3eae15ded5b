"""Long items are converted to float part by part, as the tower takes them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from vidtune.features.tower_stream import TowerStream
from vidtune.media.preprocessing.resize_to_square import VideoPreprocessing
from vidtune.models.connectors.base import connector_config
from vidtune.models.media_reading import MediaReading
from vidtune.models.towers import clipwise
from vidtune.models.towers.base import tower_config
from vidtune.processing import batch
from vidtune.processing.batch import Item

TOWER = {"type": "umt", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TOWER |= {"image_size": 16, "patch_size": 8}
CONNECTOR = {"type": "token_merging", "input_size": 16, "output_size": 8, "group_tokens": 16, "tokens": 4, "heads": 2}
FLOATS = VideoPreprocessing(size=16, num_frames=64, sampling="middles", pixels="uint8")


class Reading(MediaReading, nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        tower, connector = tower_config(TOWER), connector_config(CONNECTOR)
        self.config = SimpleNamespace(
            streams={"video": {"tower": "vision", "connector": "visual"}},
            towers={"vision": TOWER},
            connectors={"visual": CONNECTOR},
            tower=lambda name: tower,
            connector=lambda name: connector,
            connector_of=lambda stream: connector,
            taps=lambda stream: (),
            text_config=SimpleNamespace(hidden_size=8),
        )
        self.program = SimpleNamespace(adds={})
        self.device = torch.device("cpu")
        self.towers = nn.ModuleDict({"vision": tower.build().requires_grad_(False)})
        self.connectors = nn.ModuleDict({"visual": connector.build()})


@pytest.fixture
def largest(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of frames of every tensor that became float."""
    seen: list[int] = []
    to_float = VideoPreprocessing.to_float

    def counted(self: VideoPreprocessing, values: torch.Tensor) -> torch.Tensor:
        seen.append(values.numel() // (3 * 16 * 16))
        return to_float(self, values)

    monkeypatch.setattr(VideoPreprocessing, "to_float", counted)
    monkeypatch.setattr(clipwise, "TOKENS_AT_ONCE", 32)
    return seen


def values(frames: int) -> torch.Tensor:
    drawn = torch.Generator().manual_seed(frames)
    return torch.randint(0, 256, (3, frames, 16, 16), generator=drawn).to(torch.uint8)


@torch.no_grad()
def test_a_long_item_is_float_in_parts_alone(largest: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    reading, numbers = Reading(), (28, 4, 20)
    items = [Item(values(frames), frames) for frames in numbers]
    whole = [item.to_float(FLOATS) for item in items]
    assert ([item.prepare for item in whole], largest) == ([None] * 3, [28, 4, 20])
    features = list(reading.encode_items("video", whole))
    monkeypatch.setattr(batch, "LARGE", values(20).numel())
    largest.clear()
    found = list(reading.encode_items("video", [item.to_float(FLOATS) for item in items]))
    assert max(largest) == 8
    assert [block.shape for block in found] == [(n, 8) for n in numbers]
    for one, other in zip(found, features, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_extraction_encodes_long_files_in_parts(largest: list[int]) -> None:
    reading, arrays = Reading(), [values(28).numpy(), values(4).numpy()]
    stream = TowerStream("video", reading.towers["vision"], FLOATS, None, (), reading.config.connector(""))  # type: ignore[arg-type]
    found = stream.encode(arrays)
    assert max(largest) == 8
    assert [tuple(block.shape) for block in found] == [(28, 16), (4, 16)]
    [alone] = stream.encode([np.ascontiguousarray(arrays[0][:, 8:16])])
    torch.testing.assert_close(found[0][8:16], alone, atol=1e-5, rtol=1e-5)
