"""Sound of a media file as one wave of 16 kHz, as long as the headers of the file say.

Legend: n samples of the wave, C channels, m samples of a piece.

The length is known without decoding: ``num_samples(audio_seconds(path))``. There are two ways to resample to 16 kHz.
``clean`` uses a proper resampler and places the sound by its time stamps. ``nearest`` picks the nearest of 44100
samples a second and ignores time stamps; it has no low-pass filter, so frequencies above 8 kHz alias. Published
features were made with it: moviepy 1.0.3 (``AudioClip.to_soundarray``) on 16-bit stereo decoded by FFmpeg.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer

from vidtune.errors import MediaError
from vidtune.media.container import (
    check_complete,
    default_stream,
    open_media,
    packet_end,
    set_threads,
    streams_to_demux,
)
from vidtune.media.file_version import file_version
from vidtune.media.first_look import media_errors, open_file

Resampling = Literal["clean", "nearest"]

SAMPLE_RATE = 16000
NEAREST_RATE = 44100
_JITTER = SAMPLE_RATE // 20  # samples by which a time stamp may be late without making a gap
_LONGEST = 48 * 3600  # seconds; a header that says more is wrong
_KEPT_BYTES = 2**28  # the largest wave that is kept for the next reader: a little over an hour
_STREAMED_WAV = 0x7FFFF000  # sizes of RIFF files from here on say that the writer did not know


def audio_seconds(source: str | os.PathLike[str] | InputContainer) -> float:
    """Return the length in seconds of the wave of a file: the length of the whole file in its headers, in hundredths as
    FFmpeg prints it; 0 without a sound track. Only a file that states no length (a live recording) is read to its end.

    Args:
        source: path, or an open file.

    Raises:
        MediaError: the file cannot be opened.
    """
    if not isinstance(source, InputContainer):
        with open_media(os.fspath(source), "sound") as container:
            return audio_seconds(container)
    if not source.streams.audio:
        return 0.0
    microseconds = source.duration or 0
    if microseconds <= 0:
        microseconds = _measured_duration(source.name)
    minutes, hundredths = divmod((microseconds + 5000) // 10000, 6000)
    hours, minutes = divmod(minutes, 60)
    return hundredths / 100 + 60 * minutes + 3600 * hours  # in this order the float is the one moviepy computes


def num_samples(seconds: float) -> int:
    """Return the number of samples n of a wave of this length."""
    return int(SAMPLE_RATE * seconds)


def read_audio(path: str | os.PathLike[str], resampling: Resampling = "clean") -> np.ndarray:
    """Return the sound of a file, from the start of the file to its end, as the mean of its channels.

    Of several tracks, the one that is marked as the default is read.

    A packet that cannot be decoded becomes silence; if more than one in a hundred cannot, the file counts as damaged.
    The last wave is kept in memory until the file changes; therefore the array is read-only.

    Args:
        resampling: "clean": gaps, a late start and a missing end are silence. "nearest": gaps are ignored, the last
            sample is repeated to the end, and FFmpeg makes mono 3 dB softer.

    Shape: -> float32 (n,), full scale is [-1, 1]
    Raises:
        MediaError: missing, of an unknown format, without a sound track, damaged or cut off.
    """
    path = os.fspath(path)
    with media_errors(path):
        version = file_version(path)
    return _last_wave.get((str(Path(path).absolute()), version, resampling), path, resampling)


def read_silence(path: str | os.PathLike[str]) -> np.ndarray:
    """Return silence of the same length as the wave of a file, without decoding.

    Shape: -> float32 (n,), zeros
    Raises:
        MediaError: missing, of an unknown format, or without a sound track.
    """
    path = os.fspath(path)
    with open_media(path, "sound") as container:
        return _silent_wave(path, container)


class _LastWave:
    """Keeps the last wave that was read, because several streams read the same file one after the other."""

    def __init__(self) -> None:
        self._kept: tuple[Any, np.ndarray] | None = None

    def get(self, key: Any, path: str, resampling: Resampling) -> np.ndarray:
        kept = self._kept
        if kept is not None and kept[0] == key:
            return kept[1]
        self._kept = kept = None  # free its memory before the next wave is read
        wave = _read(path, resampling)
        wave.flags.writeable = False
        if wave.nbytes <= _KEPT_BYTES:
            self._kept = key, wave
        return wave


_last_wave = _LastWave()


def _read(path: str, resampling: Resampling) -> np.ndarray:
    with open_media(path, "sound") as container:
        wave = _silent_wave(path, container)
        stream = default_stream(container.streams.audio)
        set_threads(path, stream, 1)
        frames = _decode(path, container, stream)
        if resampling == "nearest":
            _fill_nearest(wave, frames)
        else:
            start = None if container.start_time is None else container.start_time / av.time_base
            _fill_by_time(wave, frames, start)
    if not np.isfinite(wave).all():
        raise MediaError(path, "is damaged: it holds samples that are no numbers")
    return wave


def _silent_wave(path: str, container: InputContainer) -> np.ndarray:
    if not container.streams.audio:
        raise MediaError(path, "has no sound")
    seconds = audio_seconds(container)
    if seconds > _LONGEST:
        raise MediaError(path, f"is damaged: it claims to last {seconds / 3600:.0f} hours")
    return np.zeros(num_samples(seconds), np.float32)


def _measured_duration(path: str) -> int:
    """Return the microseconds from the start of a file to the end of its last packet."""
    with open_media(path, "sound") as container:
        ends = [packet_end(packet) for packet in container.demux() if packet.size]
        start = (container.start_time or 0) / av.time_base
    return round((max(ends, default=start) - start) * av.time_base)


def _decode(path: str, container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    """Yield the frames of a sound track.

    Raises:
        MediaError: at the end, if a part is missing or too many packets cannot be decoded.
    """
    packets = failed = 0
    heard, damaged, latest = 0.0, False, 0.0
    for packet in container.demux(*streams_to_demux(container, stream)):
        latest = max(latest, packet_end(packet))
        if packet.stream_index != stream.index:
            continue
        packets += packet.size > 0
        damaged = damaged or packet.is_corrupt
        try:
            frames = packet.decode()
        except av.FFmpegError:
            failed += 1
            continue
        for frame in frames:
            heard += frame.samples / frame.sample_rate
            yield frame
    if container.format.name == "wav" and damaged:
        damaged = not _streamed_wav(path)
    check_complete(path, container, stream, latest, packets, damaged)
    if failed > max(1, packets // 100) or (packets and not heard):
        raise MediaError(path, f"is damaged: {failed} of {packets} packets of its sound cannot be decoded")
    stated = _stated_seconds(container, stream)
    if heard < min(0.9 * stated, stated - 1):
        raise MediaError(path, f"is damaged or cut off: it gives {heard:.1f} of {stated:.1f} seconds of sound")


def _stated_seconds(container: InputContainer, stream: AudioStream) -> float:
    """Return the stated length of the sound in seconds, for formats without gaps that state it; 0 for all others.

    An MP3 file states it if its header also states the padding; otherwise FFmpeg guesses from the bit rate.
    """
    known = container.format.name in ("flac", "ogg") or (container.format.name == "mp3" and stream.start_time)
    return float((stream.duration or 0) * (stream.time_base or 0)) if known else 0.0


def _streamed_wav(path: str) -> bool:
    """Whether a RIFF file was written to a pipe, so that its size is unknown and it may end anywhere."""
    with open_file(path) as file:
        return int.from_bytes(file.read(8)[4:], "little") >= _STREAMED_WAV


class _Converter:
    """FFmpeg's resampler for consecutive frames of sound; started anew when sample format, layout or rate change.

    Args:
        make: function(frame) that builds the resampler for sound like this frame.
    """

    def __init__(self, make: Callable[[AudioFrame], AudioResampler]) -> None:
        self._make = make
        self._resampler: AudioResampler | None = None
        self._form: Any = None

    def push(self, frame: AudioFrame) -> Iterator[np.ndarray]:
        """Yield the resampled pieces of a frame. Shape: -> (C, m) planar, (1, m * C) packed"""
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self._form:
            yield from self.finish()
            self._resampler, self._form = self._make(frame), form
        yield from self._convert(frame)

    def finish(self) -> Iterator[np.ndarray]:
        """Yield the rest that the resampler holds back. Shape: as `push`"""
        yield from self._convert(None)
        self._resampler = self._form = None

    def _convert(self, frame: AudioFrame | None) -> Iterator[np.ndarray]:
        if self._resampler is not None:
            for piece in self._resampler.resample(frame):
                if piece is not None:
                    yield piece.to_ndarray()


def _fill_by_time(wave: np.ndarray, frames: Iterator[AudioFrame], start: float | None) -> None:
    """Resample with a low-pass filter and place the sound by time stamps: a late frame leaves a gap of silence.

    A frame that is early, or late by less than `_JITTER`, follows the frame before without a gap.

    Args:
        wave: float32 (n,), zeros; filled in place.
        start: time stamp of the start of the file in seconds; None: that of its first frame.
    """
    written = 0  # where the next resampled piece goes

    def write(pieces: Iterator[np.ndarray]) -> None:
        nonlocal written
        for piece in pieces:
            begin, end = max(written, 0), min(written + piece.shape[1], len(wave))
            if begin < end:
                wave[begin:end] = piece[:, begin - written : end - written].mean(0)
            written += piece.shape[1]

    converter = _Converter(_clean_resampler)
    following = 0.0  # place of a frame that follows without a gap, in samples of the wave
    for number, frame in enumerate(frames):
        start = frame.time if start is None else start
        place = following if frame.time is None or start is None else (frame.time - start) * SAMPLE_RATE
        if not number or place > following + _JITTER:
            write(converter.finish())
            written = max(round(place), written) if number else round(place)
            following = float(written)
        write(converter.push(frame))
        following += frame.samples * SAMPLE_RATE / frame.sample_rate
    write(converter.finish())


def _clean_resampler(frame: AudioFrame) -> AudioResampler:
    """Return a resampler to float samples of 16 kHz. More than two channels become two; no channel gets louder."""
    layout = None if frame.layout.nb_channels <= 2 else "stereo"
    return AudioResampler(format="fltp", layout=layout, rate=SAMPLE_RATE, options={"rematrix_maxval": "1.0"})


def _nearest_resampler(frame: AudioFrame) -> AudioResampler:
    """Return a resampler to the format that moviepy asks FFmpeg for."""
    return AudioResampler(format="s16", layout="stereo", rate=NEAREST_RATE)


def _fill_nearest(wave: np.ndarray, frames: Iterator[AudioFrame]) -> None:
    """Pick the nearest samples of 16-bit stereo sound of 44100 Hz, and repeat the last one to the end.

    Args:
        wave: float32 (n,); filled in place.
    """
    converter = _Converter(_nearest_resampler)
    seen = done = 0  # samples of the source that were read, samples of the wave that are filled
    last = np.float32(0)

    def pieces() -> Iterator[np.ndarray]:
        for frame in frames:
            yield from converter.push(frame)
        yield from converter.finish()

    for piece in pieces():
        samples = piece.reshape(-1, 2).astype(np.float32).mean(1) / 32768
        if not len(samples):
            continue
        end = seen + len(samples)
        wanted = np.arange(done, min(len(wave), end * SAMPLE_RATE // NEAREST_RATE + 2))
        nearest = np.round(wanted * NEAREST_RATE / SAMPLE_RATE).astype(np.int64)
        nearest = nearest[: np.searchsorted(nearest, end)]
        wave[done : done + len(nearest)] = samples[nearest - seen]
        seen, done, last = end, done + len(nearest), samples[-1]
    wave[done:] = last
