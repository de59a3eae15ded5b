"""Filter banks and log mel spectrograms: equal to the official ones, shapes known before decoding."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.numpy import load_file
from synthetic_clips import write_clip
from synthetic_sounds import tone, write_picture_only, write_sound

from vidtune.errors import MediaError
from vidtune.media import audio
from vidtune.media.audio import num_samples, read_audio
from vidtune.media.clip_times import ClipTimes
from vidtune.media.pool import LoadJob, MediaPool
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.media.preprocessing.resize_keeping_aspect import AnyPixelImagePreprocessing, AnyPixelVideoPreprocessing
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing
from vidtune.media.preprocessing.sound import (
    FbankPreprocessing,
    LogMelPreprocessing,
    log_mel_energies,
    num_frames,
)
from vidtune.media.probe import MediaInfo, probe

PARITY = Path(os.environ.get("VIDTUNE_PARITY", Path(__file__).parents[2] / "parity" / "fixtures")) / "longvale"
BOTH = [FbankPreprocessing(), LogMelPreprocessing()]
REAL = sorted(Path(os.environ.get("VIDTUNE_REAL_MEDIA", "/work/shared/media")).glob("real_*.mp4"))
SOUND = MediaInfo("audio", 0, 0, ClipTimes.unknown(0), True, 0)


@pytest.fixture(scope="module")
def official() -> tuple[dict, dict[str, np.ndarray], dict[str, np.ndarray]]:
    config = json.loads((PARITY / "config.json").read_text())
    return config, load_file(PARITY / "inputs.safetensors"), load_file(PARITY / "expected.safetensors")


def mono(inputs: dict[str, np.ndarray], samples: int, loudness: float) -> np.ndarray:
    return (np.resize(inputs["audio_clip.int8"], samples) / 128 * loudness).astype(np.float32)


def test_fbank_equals_the_official_windows(official) -> None:
    config, inputs, expected = official
    a, b = (FbankPreprocessing().apply(mono(inputs, config[key], 0.75)).numpy() for key in ("audio_n", "audioB_n"))
    assert len(a) == config["results"]["beats_A_num_windows"]
    assert len(b) == config["results"]["beats_B_num_windows"]
    for found, name in (
        (a[0], "beats.A.fbank_window0"),
        (a[-1, ::8], "beats.A.fbank_last_window_every8rows"),
        (b[:, ::8], "beats.B.fbank_windows_every8rows"),
    ):
        difference = np.abs(found - expected[name])
        assert difference.max() < 1e-3 and difference.mean() < 1e-5, name


def test_fbank_gives_as_many_windows_as_the_official_code(official) -> None:
    for case in official[0]["results"]["beats_window_counts"]:
        windows = FbankPreprocessing().apply(np.zeros(case["samples_16k"], np.float32))
        assert tuple(windows.shape) == ((0, 512, 128) if isinstance(case["result"], str) else tuple(case["result"]))


def test_log_mel_equals_the_official_pieces(official) -> None:
    config, inputs, expected = official
    found = LogMelPreprocessing().apply(mono(inputs, config["asr_n"], 1.0)).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, :, ::40], expected["whisper.s0.log_mel_stride40"], atol=1e-4)


@pytest.mark.parametrize("seconds", [2.0, 2.57, 2.58, 5.12, 12.9, 31.3, 47.0])
def test_fbank_equals_its_definition_window_by_window(seconds: float) -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, num_samples(seconds)).astype(np.float32)
    windows = FbankPreprocessing().apply(wave).numpy()
    rows = (log_mel_energies(torch.from_numpy(wave)).numpy() - 15.41663) / (2 * 6.55582)
    padded = np.concatenate([rows, np.zeros((len(rows) % 512, 128), np.float32)])
    expected = padded[: len(padded) // 512 * 512].reshape(-1, 512, 128)
    assert windows.shape == expected.shape
    np.testing.assert_allclose(windows, expected, atol=1e-5)


def test_the_energies_of_a_frame_are_those_of_its_definition() -> None:
    wave = np.random.default_rng(1).normal(0, 0.1, 16000).astype(np.float32)
    frame = wave[160 * 7 : 160 * 7 + 400].astype(np.float64) * 32768
    frame -= frame.mean()
    frame -= 0.97 * np.concatenate([frame[:1], frame[:-1]])
    frame *= (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    power = np.abs(np.fft.rfft(frame, 512)) ** 2
    mel = 1127 * np.log(1 + np.arange(256) * 31.25 / 700)
    low, high = (1127 * np.log(1 + hertz / 700) for hertz in (20, 8000))
    step = (high - low) / 129
    expected = []
    for number in range(128):
        rising, falling = (mel - low) / step - number, number + 2 - (mel - low) / step
        expected.append(np.log(max(np.minimum(rising, falling).clip(0) @ power[:256], 1.1920929e-07)))
    found = log_mel_energies(torch.from_numpy(wave))[7].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("samples", "frames", "windows", "pieces"),
    [
        (0, 0, 0, 0),
        (1, 0, 0, 1),
        (399, 0, 0, 1),
        (400, 1, 0, 1),
        (4800, 28, 0, 1),
        (41199, 255, 0, 1),
        (41200, 256, 1, 1),
        (480000, 2998, 6, 1),
        (480001, 2998, 6, 2),
        (3760000, 23498, 46, 8),
    ],
)
def test_rows_follow_from_the_number_of_samples(samples: int, frames: int, windows: int, pieces: int) -> None:
    assert num_frames(samples) == frames
    wave = np.zeros(samples, np.float32)
    assert FbankPreprocessing().num_rows(samples) == windows
    assert LogMelPreprocessing().num_rows(samples) == pieces
    if samples < 500000:
        assert FbankPreprocessing().apply(wave).shape == (windows, 512, 128)
        assert LogMelPreprocessing().apply(wave).shape == (pieces, 80, 3000)


FILES = [("clip.mp4", "aac", 44100, 6.0), ("clip.mkv", "libopus", 48000, 33.3), ("sound.mp3", "mp3", 44100, 2.6)]
FILES += [("short.wav", "pcm_s16le", 16000, 0.3), ("thirty.flac", "flac", 16000, 30.0)]


@pytest.mark.parametrize("resampling", ["clean", pytest.param("nearest", marks=pytest.mark.whole)])
@pytest.mark.parametrize("settings", BOTH, ids=["fbank", "log_mel"])
@pytest.mark.parametrize(("name", "codec", "rate", "seconds"), FILES, ids=[file[0] for file in FILES])
def test_the_shape_is_known_from_metadata(tmp_path, name, codec, rate, seconds, settings, resampling) -> None:
    picture_seconds = seconds - 1 if "clip" in name else 0.0
    path = write_sound(tmp_path / name, tone(440, seconds, rate), rate, codec, picture_seconds=picture_seconds)
    preprocessing = settings.model_copy(update={"resampling": resampling})
    loaded = preprocessing.load(str(path))
    assert loaded.dtype == np.float32
    assert loaded.shape == preprocessing.output_shape(probe(path))


@pytest.mark.parametrize("path", REAL, ids=[path.stem for path in REAL])
def test_the_shape_is_known_of_real_files(path: Path) -> None:
    for preprocessing in BOTH:
        loaded = preprocessing.load(str(path))
        assert loaded.shape == preprocessing.output_shape(probe(path)) and np.isfinite(loaded).all()


def test_shapes_without_a_file() -> None:
    assert [settings.output_shape() for settings in BOTH] == [(1, 512, 128), (1, 80, 3000)]
    assert [settings.output_shapes() for settings in BOTH] == [[], []]
    assert [settings.output_shape(SOUND) for settings in BOTH] == [(0, 512, 128), (0, 80, 3000)]
    assert FbankPreprocessing().output_shape(replace(SOUND, audio_seconds=235.0)) == (46, 512, 128)


@pytest.mark.parametrize("settings", BOTH, ids=["fbank", "log_mel"])
def test_a_video_without_sound_is_named_and_blind_is_no_excuse(tmp_path: Path, settings) -> None:
    path = write_picture_only(tmp_path / "silent.mp4")
    for blind in (False, True):
        with pytest.raises(MediaError, match=r"silent\.mp4: has no sound"):
            settings.model_copy(update={"blind": blind}).load(str(path))
    assert settings.output_shape(probe(path))[0] == 0


@pytest.mark.parametrize("settings", BOTH, ids=["fbank", "log_mel"])
def test_blind_is_silence_of_the_same_length(tmp_path: Path, settings, monkeypatch) -> None:
    path = write_sound(tmp_path / "a.mp4", tone(440, 6.0, 44100), 44100, "aac", picture_seconds=6.0)
    silent = write_sound(tmp_path / "b.wav", 0 * tone(440, 6.0, 16000), 16000, "pcm_s16le")
    loud = settings.load(str(path))
    blind = settings.model_copy(update={"blind": True})
    np.testing.assert_array_equal(blind.apply(read_audio(path)).numpy(), settings.load(str(silent)))
    monkeypatch.setattr(audio, "_decode", lambda *_: pytest.fail("nothing may be decoded"))
    found = blind.load(str(path))
    assert found.shape == loud.shape and not np.allclose(found, loud, atol=0.1)
    assert np.isfinite(found).all() and len(np.unique(found)) == 1


def test_a_wave_is_shared_by_two_preprocessings(tmp_path: Path, monkeypatch) -> None:
    path = write_sound(tmp_path / "a.mp3", tone(440, 3.0, 44100), 44100, "mp3")
    decoded: list[str] = []
    real = audio._read
    monkeypatch.setattr(audio, "_read", lambda path, way: decoded.append(path) or real(path, way))
    for preprocessing in BOTH:
        preprocessing.load(str(path))
    assert len(decoded) == 1


def test_the_pool_reads_sound(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", tone(440, 6.0, 16000), 16000, "pcm_s16le")
    missing = write_picture_only(tmp_path / "silent.mp4")
    with MediaPool(1, 60.0) as pool:
        found = list(pool.load([LoadJob(str(file), settings) for file in (path, missing) for settings in BOTH]))
    for result, preprocessing in zip(found[:2], BOTH, strict=True):
        np.testing.assert_array_equal(result.array, preprocessing.load(str(path)))
    assert ["has no sound" in str(result.error) for result in found] == [False, False, True, True]


def test_sound_alone_has_nothing_to_see(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.mp3", tone(440, 1.0, 44100), 44100, "mp3")
    info = probe(path)
    for settings in (VideoPreprocessing(), AnyPixelVideoPreprocessing()):
        for blind in (False, True):
            with pytest.raises(MediaError, match="has no video stream"):
                settings.model_copy(update={"blind": blind}).load(str(path))
        assert settings.output_shape(info) == settings.output_shape()
    for settings in (ImagePreprocessing(blind=True), AnyPixelImagePreprocessing(blind=True)):
        with pytest.raises(MediaError, match="is an audio file where an image is expected"):
            settings.load(str(path))
        assert settings.output_shape(info) == settings.output_shape()


def test_a_folder_of_frames_has_no_sound(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", num_frames=2)
    with pytest.raises(MediaError, match="is a folder, not a file"):
        FbankPreprocessing().load(str(tmp_path))


def test_a_wave_must_be_one_channel() -> None:
    with pytest.raises(ValueError, match=r"one wave \(n,\) of 16000 Hz, not of shape \(2, 16000\)"):
        FbankPreprocessing().apply(np.zeros((2, 16000), np.float32))


@pytest.mark.parametrize("preprocessing", [FbankPreprocessing(resampling="nearest"), LogMelPreprocessing(blind=True)])
def test_settings_survive_json_and_unknown_ones_are_refused(preprocessing) -> None:
    adapter: TypeAdapter[Preprocessing] = TypeAdapter(Preprocessing)
    assert adapter.validate_json(preprocessing.model_dump_json()) == preprocessing
    values = torch.ones(1, 2)
    assert preprocessing.to_float(values) is values
    with pytest.raises(ValidationError, match="resample"):
        type(preprocessing)(resample="clean")
