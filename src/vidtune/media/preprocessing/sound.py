"""Preprocessing of sound: media files or decoded waves to spectrograms for audio and speech towers.

Legend: n samples at 16 kHz, F frames of 25 ms every 10 ms, W windows of 512 frames (5.12 s), C pieces of 30 s.
The first dimension of an item is open: W and C follow from the length of the sound and may be 0.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from vidtune.media.audio import SAMPLE_RATE, Resampling, num_samples, read_audio, read_silence
from vidtune.media.clip_times import Part
from vidtune.media.probe import MediaInfo, probe

if TYPE_CHECKING:
    from transformers import WhisperFeatureExtractor

FRAME, SHIFT, FFT = 400, 160, 512  # samples
MEL_BINS = 128
WINDOW = 512  # frames
PIECE = 30 * SAMPLE_RATE
LOG_MEL_SHAPE = (80, 3000)
_AT_ONCE = 4  # windows computed together; more does not make it faster
_PREEMPHASIS = 0.97
_SMALLEST_ENERGY = 1.1920929e-07
_MEAN, _DEVIATION = 15.41663, 6.55582


class _AudioPreprocessing(BaseModel):
    """Base class of all preprocessing of sound.

    Args:
        resampling: how to resample to 16 kHz, see `vidtune.media.audio.read_audio`; published features need "nearest".
        blind: replace the sound by silence of the same length. The file is opened for its metadata only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    reads_parts: ClassVar[bool] = True

    resampling: Resampling = "clean"
    blind: bool = False

    def num_rows(self, samples: int) -> int:
        """Return the first dimension of the result for a wave of so many samples."""
        raise NotImplementedError

    def output_shape(self, info: MediaInfo | None = None) -> tuple[int, ...]:
        """Return the shape of ``load``'s result, without decoding. Without ``info``: the shape of a single row."""
        rows = 1 if info is None else self.num_rows(num_samples(info.audio_seconds))
        return (rows, *self._row_shape())

    def output_shapes(self) -> list[tuple[int, ...]]:
        """Return an empty list: sound may have any length."""
        return []

    def read(self, path: str, part: Part | None = None) -> np.ndarray:
        """Read the wave that ``apply`` takes. Shape: -> float32 (n,)

        Args:
            part: what of the file is read; None: the whole file.

        Raises:
            MediaError: the file cannot be read, or has no sound, or there is no such part.
        """
        wave = read_silence(path) if self.blind else read_audio(path, self.resampling)
        if part is None or not part.is_cut:
            return wave
        first, samples = num_samples(part.start or 0.0), num_samples(probe(path).of_part(path, part).audio_seconds)
        return np.pad(wave[first : first + samples], (0, max(0, samples - max(len(wave) - first, 0))))

    def apply(self, wave: np.ndarray, seed: int | None = None) -> torch.Tensor:
        """Make the tensor from a wave; the seed is not used. Shape: float32 (n,) -> that of ``load``'s result"""
        wave = np.asarray(wave, np.float32)
        if wave.ndim != 1:
            raise ValueError(f"sound must be one wave (n,) of {SAMPLE_RATE} Hz, not of shape {wave.shape}")
        return self._features(np.zeros_like(wave) if self.blind else wave)

    def load(self, path: str, seed: int | None = None, part: Part | None = None) -> np.ndarray:
        """Read a file and make its tensor. Shape: -> float32, see ``output_shape``

        Raises:
            MediaError: the file cannot be read, or has no sound, or there is no such part.
        """
        return self.apply(self.read(path, part), seed).numpy()

    def to_float(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values unchanged: ``load`` and ``apply`` return the input of the tower."""
        return values

    def _row_shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    def _features(self, wave: np.ndarray) -> torch.Tensor:
        raise NotImplementedError


class FbankPreprocessing(_AudioPreprocessing):
    """Sound -> normalised log mel energies in windows of 5.12 s, float32 (W, 512, 128).

    The energies are Kaldi's (``compute-fbank-feats`` without dither, Povey window), normalised with the mean and twice
    the deviation that BEATs was trained with (arXiv:2212.09058, and its official code in microsoft/unilm).

    Args:
        padding: "published": if r frames remain after the last whole window, r zero rows are appended and an incomplete
            window is dropped. So a rest of 256 frames or more is kept, a shorter one is dropped, and sound of less than
            2.6 s gives no window.
    """

    kind: Literal["fbank"] = "fbank"
    padding: Literal["published"] = "published"

    def num_rows(self, samples: int) -> int:
        """Return the number of windows W of a wave of so many samples."""
        frames = num_frames(samples)
        return (frames + frames % WINDOW) // WINDOW

    def _row_shape(self) -> tuple[int, ...]:
        return (WINDOW, MEL_BINS)

    def _features(self, wave: np.ndarray) -> torch.Tensor:
        frames = num_frames(len(wave))
        x = torch.zeros(self.num_rows(len(wave)), *self._row_shape())
        rows = x.view(-1, MEL_BINS)
        for begin in range(0, min(frames, len(rows)), WINDOW * _AT_ONCE):
            end = min(begin + WINDOW * _AT_ONCE, frames, len(rows))
            samples = torch.tensor(wave[begin * SHIFT : (end - 1) * SHIFT + FRAME])
            rows[begin:end] = (log_mel_energies(samples) - _MEAN) / (2 * _DEVIATION)
        return x


class LogMelPreprocessing(_AudioPreprocessing):
    """Sound -> Whisper's log mel spectrograms of 30 s each, float32 (C, 80, 3000).

    The wave is cut every 30 s and the last piece is filled with silence (arXiv:2212.04356, section 2.2). A piece needs
    at least one sample; without samples the result is (0, 80, 3000). Each piece is clamped by its own maximum.
    """

    kind: Literal["log_mel"] = "log_mel"

    def num_rows(self, samples: int) -> int:
        """Return the number of pieces C of a wave of so many samples."""
        return -(-samples // PIECE)

    def _row_shape(self) -> tuple[int, ...]:
        return LOG_MEL_SHAPE

    def _features(self, wave: np.ndarray) -> torch.Tensor:
        x = torch.empty(self.num_rows(len(wave)), *LOG_MEL_SHAPE)
        for number in range(len(x)):
            piece = np.array(wave[number * PIECE : (number + 1) * PIECE])
            found = _whisper_features()(piece, sampling_rate=SAMPLE_RATE, return_tensors="np")
            x[number] = torch.from_numpy(found["input_features"][0])
        return x


def num_frames(samples: int) -> int:
    """Return the number of frames F that lie completely within a wave of so many samples."""
    return 0 if samples < FRAME else 1 + (samples - FRAME) // SHIFT


def log_mel_energies(wave: torch.Tensor) -> torch.Tensor:
    """Return Kaldi's log mel filter bank energies of every frame. Shape: float32 (n,), values in [-1, 1] -> (F, 128)"""
    window, filters = _kaldi_constants()
    x = (wave * 32768).unfold(0, FRAME, SHIFT)
    x = x - x.mean(1, keepdim=True)
    emphasised = torch.cat([x[:, :1] * (1 - _PREEMPHASIS), x[:, 1:] - _PREEMPHASIS * x[:, :-1]], dim=1)
    spectrum = torch.fft.rfft(emphasised.mul_(window), FFT)[:, : FFT // 2]
    power = spectrum.real.square().add_(spectrum.imag.square())
    return (power @ filters).clamp_(min=_SMALLEST_ENERGY).log_()


@lru_cache(maxsize=1)
def _kaldi_constants() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the Povey window (400,) and triangular mel filters (256, 128) from 20 Hz to half the rate, in float32.

    Some of the low filters are narrower than the distance of two FFT bins and therefore empty.
    """
    window = np.hanning(FRAME) ** 0.85
    edges = np.linspace(_mel(20.0), _mel(SAMPLE_RATE / 2), MEL_BINS + 2)
    bins = _mel(np.arange(FFT // 2) * SAMPLE_RATE / FFT)[:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    filters = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clip(0)
    return torch.from_numpy(window).float(), torch.from_numpy(filters).float()


def _mel(hertz: float | np.ndarray) -> np.ndarray:
    return 1127 * np.log1p(np.asarray(hertz) / 700)


@lru_cache(maxsize=1)
def _whisper_features() -> "WhisperFeatureExtractor":
    from transformers import WhisperFeatureExtractor  # heavy

    return WhisperFeatureExtractor(feature_size=LOG_MEL_SHAPE[0])
