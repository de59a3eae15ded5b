"""Draw and sound the clips of :mod:`vidtune.world.events`.

Legend: T frames, S side of the frame in pixels, A audio samples.
"""

from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np

from vidtune.world.events import EventClip, Sight, TimedEvent
from vidtune.world.render import SAMPLE_RATE, inside_shape, write_clip
from vidtune.world.scene import COLOURS

_BACKGROUND = 30
_RADIUS = 0.32
_BAR = 0.06
_BAR_LEVEL = 200
_NOISE_LEVEL = 0.002
_HUM_LEVEL = 0.02
_HUM_HERTZ = (300.0, 7000.0)
_BLINK_SECONDS = 0.5
_RAMP_SECONDS = 0.05
_HALF_MILLISECOND = 0.0005
_SOUND_BIT_RATE = 32000
_SOUND_LEVEL = 0.2
_VOICE_LEVEL = 0.3
_VOICE_HERTZ = 120.0
_VOICE_BAND = 3600.0
_FORMANT_WIDTH = 110.0
VOWELS = {"a": (750, 1250), "i": (290, 2300), "u": (320, 750), "e": (530, 1850), "o": (470, 900)}
"""Hertz of the two lowest formants (resonances of the mouth) that tell vowels apart."""
SYLLABLES = {"alpha": (("a", 0.3), ("a", 0.3)), "kiwi": (("i", 0.2), ("i", 0.2))}
SYLLABLES |= {"lulu": (("u", 0.25), ("u", 0.4)), "echo": (("e", 0.2), ("o", 0.45))}
"""Vowel and seconds of each syllable."""
_PAUSES = (0.08, 0.2)
"""Seconds after a syllable, and after a word."""


def draw_event_frames(clip: EventClip, fps: Fraction, size: int) -> np.ndarray:
    """All frames of a clip: (T, S, S, 3) uint8 RGB; frame t shows the moment t / fps.

    A bar along the lower edge grows as the clip runs, as players draw it: a single frame tells when it is.
    """
    frames = np.full((round(clip.duration * float(fps)), size, size, 3), _BACKGROUND, np.uint8)
    grid = (np.arange(size) + 0.5) / size
    for t, frame in enumerate(frames):
        frame[np.ix_(grid > 1 - _BAR, grid <= (t + 1) / len(frames))] = _BAR_LEVEL
    for event in clip.events:
        if event.sight is not None:
            for t in range(len(frames)):
                seconds = t / float(fps) - event.start
                if 0 <= seconds + _HALF_MILLISECOND < event.end - event.start:
                    _draw(event.sight, seconds / (event.end - event.start), seconds, frames[t], grid)
    return frames


def _draw(sight: Sight, way: float, seconds: float, frame: np.ndarray, grid: np.ndarray) -> None:
    """A shape that moves, or goes down to half its brightness and back."""
    colour = np.asarray(COLOURS[sight.colour])
    x = 0.5
    if sight.action != "blinks":
        near, far = _RADIUS, 1 - _RADIUS
        first, last = (near, far) if sight.action == "moves right" else (far, near)
        x = first + way * (last - first)
    elif int(seconds / _BLINK_SECONDS) % 2:
        colour = colour // 2
    frame[inside_shape(sight.shape, (grid[None] - x) / _RADIUS, (grid[:, None] - 0.5) / _RADIUS)] = colour


def draw_event_sound(clip: EventClip) -> np.ndarray:
    """Sounds and voices of a clip, mixed into one track: (A,) float32 in [-1, 1] at SAMPLE_RATE.

    Under them lie a faint noise and a faint hum that rises as the clip runs: a single window tells when it is.
    """
    rng = np.random.default_rng(round(1000 * clip.duration))
    track = _NOISE_LEVEL * rng.standard_normal(round(clip.duration * SAMPLE_RATE), np.float32)
    time = np.arange(len(track)) / SAMPLE_RATE
    first, last = _HUM_HERTZ
    turns = (first + (last - first) * time / clip.duration / 2) * time
    track += (_HUM_LEVEL * np.sin(2 * np.pi * turns)).astype(np.float32)
    for event in clip.events:
        if event.sound is not None:
            _mix(track, event, _SOUND_LEVEL * _sound(event.sound))
        if event.word is not None:
            _mix(track, event, _VOICE_LEVEL * _spoken(event.word))
    return track


def _mix(track: np.ndarray, event: TimedEvent, period: np.ndarray) -> None:
    """Add a wave that repeats from the event's start to its end."""
    first, last = round(event.start * SAMPLE_RATE), round(event.end * SAMPLE_RATE)
    wave = np.resize(period, last - first)
    ramp = np.arange(len(wave)) / (_RAMP_SECONDS * SAMPLE_RATE)
    track[first:last] += wave * np.minimum(np.minimum(ramp, ramp[::-1]), 1)


@lru_cache
def _sound(name: str) -> np.ndarray:
    """One period of a sound, loudest at 1."""
    if name == "high tone rings":
        time = _seconds(0.5)
        wave = (np.sin(2 * np.pi * 2200 * time) + 0.4 * np.sin(2 * np.pi * 4600 * time)) * np.exp(-3 * time)
    elif name == "low tone hums":
        time = _seconds(0.5)
        wave = sum(np.sin(2 * np.pi * 110 * k * time) / k for k in range(1, 6))
    elif name == "siren wails":
        time = _seconds(0.8)
        wave = np.sin(2 * np.pi * (500 * time + 1000 * time**2))
    elif name == "drum beats":
        time = _seconds(0.4)
        wave = np.random.default_rng(0).normal(size=len(time)) * np.exp(-25 * time)
    else:
        raise ValueError(f"no sound is named {name!r}")
    return np.asarray(wave / np.abs(wave).max(), np.float32)


@lru_cache
def _spoken(word: str) -> np.ndarray:
    """A word and the pause after it, loudest at 1: for each syllable a buzz that resonates at its vowel's formants."""
    parts = []
    for vowel, seconds in SYLLABLES[word]:
        parts += [_vowel(vowel, seconds), np.zeros(round(_PAUSES[0] * SAMPLE_RATE))]
    wave = np.concatenate([*parts, np.zeros(round(_PAUSES[1] * SAMPLE_RATE))])
    return np.asarray(wave / np.abs(wave).max(), np.float32)


def _vowel(vowel: str, seconds: float) -> np.ndarray:
    time = _seconds(seconds)
    harmonics = _VOICE_HERTZ * np.arange(1, _VOICE_BAND // _VOICE_HERTZ + 1)
    distance = (harmonics - np.array(VOWELS[vowel])[:, None]) / _FORMANT_WIDTH
    loud = np.exp(-(distance**2)).sum(0) + 0.02
    buzz = (loud[:, None] * np.sin(2 * np.pi * harmonics[:, None] * time)).sum(0)
    return np.asarray(buzz * np.sin(np.pi * time / seconds) ** 0.5)


def _seconds(duration: float) -> np.ndarray:
    return np.arange(round(duration * SAMPLE_RATE)) / SAMPLE_RATE


def write_event_video(clip: EventClip, path: Path, fps: Fraction, size: int) -> None:
    """Write a clip; the file appears whole or not at all, and is the same for the same arguments."""
    write_clip(path, draw_event_frames(clip, fps, size), draw_event_sound(clip), fps, _SOUND_BIT_RATE)
