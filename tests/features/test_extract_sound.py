"""Extraction from sound: items of any length, one decoding for all who listen, silence told from damage."""

from collections import Counter
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from feature_world import stream_into, write_clip
from torch import nn

from vidtune.data.sample import MediaRef
from vidtune.features.cache import FeatureCache
from vidtune.features.collection import CollectionSpec
from vidtune.features.extract import extract
from vidtune.features.media_listing import refs_of_folder
from vidtune.features.tower_stream import TowerStream, reads_alike
from vidtune.media import pool as pool_module
from vidtune.media.pool import LoadJob, MediaPool
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.media.preprocessing.sound import FbankPreprocessing, LogMelPreprocessing
from vidtune.models.towers.beats import BeatsTowerConfig
from vidtune.models.towers.whisper import WhisperTowerConfig

BEATS = BeatsTowerConfig(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    patch_width=8,
    position_kernel=4,
    position_groups=2,
)
WHISPER = WhisperTowerConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)


def write_film(path: Path, seconds: float) -> Path:
    """A clip with a tone."""
    rate = 16000
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", rate=10), container.add_stream("aac", rate=rate)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        for number in range(round(10 * seconds)):
            pixels = np.full((32, 32, 3), 20 * number % 255, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(video.encode())
        wave = np.sin(np.arange(round(rate * seconds)) * 0.2).astype(np.float32)[None] * 0.5
        frame = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
        frame.sample_rate = rate
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
    return path


def listener(store: Path, name: str, config: Any, preprocessing: Preprocessing) -> TowerStream:
    torch.manual_seed(0)
    tower: nn.Module = config.build().requires_grad_(False).eval()
    spec = CollectionSpec.of(tower, config, preprocessing, "float32", {"stream": name})
    return TowerStream(name, tower, preprocessing, FeatureCache(store, spec))


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file is given to a worker to be decoded."""
    done: Counter[str] = Counter()
    real = pool_module.execute

    def execute(job: LoadJob) -> object:
        done[Path(job.path).name] += job.preprocessing is not None
        return real(job)

    monkeypatch.setattr(pool_module, "execute", execute)
    return done


def test_all_streams_of_films_with_and_without_sound(tmp_path: Path, jobs: Counter[str]) -> None:
    folder, store = tmp_path / "films", tmp_path / "store"
    folder.mkdir()
    write_film(folder / "long.mp4", 11.0)
    write_film(folder / "other.mp4", 6.0)
    write_film(folder / "short.mp4", 0.3)
    write_clip(folder / "mute.mp4")
    (folder / "text.mp4").write_text("no film")
    streams = [
        stream_into(store),
        listener(store, "audio", BEATS, FbankPreprocessing()),
        listener(store, "speech", WHISPER, LogMelPreprocessing()),
    ]
    with MediaPool(0, None) as pool:
        reports = extract(refs_of_folder(folder, streams), {stream.name: stream for stream in streams}, pool)
    assert {name: (r.stored, r.absent, len(r.failed)) for name, r in reports.items()} == {
        "video": (4, 0, 1),
        "audio": (2, 2, 1),  # nothing is left of 0.3 seconds
        "speech": (3, 1, 1),
    }
    # Pixels, and the wave for both that listen.
    assert jobs == {"long.mp4": 2, "other.mp4": 2, "short.mp4": 2, "mute.mp4": 2, "text.mp4": 2}
    for stream in streams[1:]:
        ref = MediaRef(stream.name, str(folder / "long.mp4"))
        direct = stream.tower([torch.from_numpy(stream.preprocessing.load(ref.path))])[0]
        found = stream.cache.find(ref)
        assert found is not None and found.shape == direct.shape
        torch.testing.assert_close(found, direct, rtol=0, atol=1e-5)
    assert [len(s.cache.find(MediaRef(s.name, str(folder / "long.mp4")))) for s in streams[1:]] == [2, 5]


def test_who_reads_the_same_is_told_by_settings_of_reading_alone() -> None:
    assert reads_alike(FbankPreprocessing(), LogMelPreprocessing())
    assert not reads_alike(FbankPreprocessing(resampling="nearest"), LogMelPreprocessing())
    assert not reads_alike(FbankPreprocessing(blind=True), LogMelPreprocessing())
