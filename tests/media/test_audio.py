"""Sound of real files: where it stands, how long it is, how loud, what is above half the rate, and what is broken."""

import os
import wave as riff
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from ffmpeg_program import ffmpeg
from PIL import Image
from synthetic_sounds import level, strongest_hertz, tone, write_picture_only, write_sound

from vidtune.errors import MediaError
from vidtune.media import audio
from vidtune.media.audio import audio_seconds, num_samples, read_audio, read_silence
from vidtune.media.probe import probe

WAYS = ("clean", "nearest")
KINDS = [
    ("clip.mp4", "aac", 44100, 2),
    ("clip48.mp4", "aac", 48000, 1),
    ("clip.mkv", "libopus", 48000, 2),
    ("clip.webm", "libopus", 48000, 1),
    ("vorbis.mkv", "vorbis", 44100, 2),
    ("clip.mov", "alac", 48000, 2),
    ("sound.m4a", "aac", 22050, 1),
    ("sound.wav", "pcm_s16le", 44100, 2),
    ("sound16.wav", "pcm_s16le", 16000, 1),
    ("sound.mp3", "mp3", 44100, 2),
    ("sound.flac", "flac", 48000, 1),
    ("sound.ogg", "libopus", 48000, 2),
]
REAL = sorted(Path(os.environ.get("VIDTUNE_REAL_MEDIA", "/work/shared/media")).glob("real_*.mp4"))


def write(folder: Path, name: str, codec: str, rate: int, channels: int, **options) -> Path:
    pictures = 2.5 if name.endswith((".mp4", ".mkv", ".mov")) else 0.0
    sound = tone(440, 2.0, rate, channels)
    return write_sound(folder / name, sound, rate, codec, picture_seconds=pictures, **options)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "codec", "rate", "channels"), KINDS, ids=[kind[0] for kind in KINDS])
def test_a_tone_survives_every_kind_of_file(tmp_path: Path, name, codec, rate, channels, way) -> None:
    path = write(tmp_path, name, codec, rate, channels)
    wave = read_audio(path, way)
    assert wave.dtype == np.float32 and wave.shape == (num_samples(audio_seconds(path)),)
    assert 2.0 * 16000 <= len(wave) <= 2.55 * 16000
    heard = wave[4000:28000]
    assert strongest_hertz(heard) == pytest.approx(440, abs=1)
    softer = np.sqrt(0.5) if way == "nearest" and channels == 1 else 1.0
    assert level(heard) == pytest.approx(softer * 0.5 * np.sqrt(0.5), rel=0.06)


@pytest.mark.parametrize("rate", [44100, 48000])
def test_what_is_too_high_is_removed_by_the_clean_way_and_folded_by_the_nearest(tmp_path: Path, rate: int) -> None:
    path = write_sound(tmp_path / "high.wav", tone(10000, 2.0, rate, 2), rate, "pcm_s16le")
    assert level(read_audio(path, "clean")[1000:-1000]) < 1e-3
    folded = read_audio(path, "nearest")[1000:-1000]
    assert level(folded) > 0.3
    assert strongest_hertz(folded) == pytest.approx(6000, abs=2)


def test_the_nearest_way_picks_samples_as_published(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-32768, 32768, (44100 * 3 + 17, 2)).astype("<i2")
    path = write_wav(tmp_path / "noise.wav", values)
    n = int(16000 * 3.0)
    wanted = np.round(44100 * np.arange(n) / 16000).astype(int)
    expected = (values / 32768)[wanted].mean(1)
    np.testing.assert_array_equal(read_audio(path, "nearest"), expected.astype(np.float32))


def test_the_nearest_way_repeats_the_last_sample(tmp_path: Path) -> None:
    sound = np.full((2, 48000), 0.25, np.float32)
    path = write_sound(tmp_path / "short.mkv", sound, 48000, "pcm_s16le", picture_seconds=2.0)
    assert np.allclose(read_audio(path, "nearest")[-15000:], 0.25, atol=1e-3)
    assert np.abs(read_audio(path, "clean")[-15000:]).max() == 0


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.ts"])
def test_the_clean_way_places_a_late_start_and_the_nearest_does_not(tmp_path: Path, name: str) -> None:
    path = write_sound(tmp_path / name, tone(440, 1.0, 48000), 48000, "aac", start=1.0, picture_seconds=2.5)
    clean, nearest = read_audio(path, "clean"), read_audio(path, "nearest")
    assert np.abs(clean[:15500]).max() < 1e-3
    assert level(clean[16500:31500]) > 0.3 and level(clean[33000:]) < 0.01
    assert level(nearest[1000:15500]) > 0.2


@pytest.mark.parametrize("start", [0.0, 0.02, 0.3])
def test_the_clean_way_keeps_an_impulse_where_it_was(tmp_path: Path, start: float) -> None:
    sound = np.zeros((2, 44100), np.float32)
    sound[:, 22050] = 0.9
    path = write_sound(tmp_path / "click.mkv", sound, 44100, "flac", start=start, picture_seconds=1.5)
    assert abs(int(read_audio(path, "clean").argmax()) - (0.5 + start) * 16000) <= 1


def test_a_gap_is_silence_and_what_follows_keeps_its_place(tmp_path: Path) -> None:
    sound = np.concatenate([tone(440, 1.0, 48000), tone(880, 1.0, 48000)], axis=1)
    path = write_sound(tmp_path / "gap.mkv", sound, 48000, "pcm_s16le", gaps=[(1.0, 0.5)], picture_seconds=2.5)
    wave = read_audio(path, "clean")
    assert strongest_hertz(wave[:16000]) == pytest.approx(440, abs=1.5)
    assert np.abs(wave[16400:23600]).max() < 1e-3
    assert strongest_hertz(wave[24000:40000]) == pytest.approx(880, abs=1.5)
    closed = read_audio(path, "nearest")
    assert strongest_hertz(closed[17000:31000]) == pytest.approx(880, abs=1.5)


def test_sound_that_changes_its_form_goes_on(tmp_path: Path) -> None:
    first = write_sound(tmp_path / "a.aac", tone(440, 2.0, 44100, 1), 44100, "aac").read_bytes()
    second = write_sound(tmp_path / "b.aac", tone(880, 2.0, 48000, 2), 48000, "aac").read_bytes()
    (tmp_path / "both.aac").write_bytes(first + second)
    for way in WAYS:
        wave = read_audio(tmp_path / "both.aac", way)
        assert strongest_hertz(wave[4000:28000]) == pytest.approx(440, abs=1)
        assert strongest_hertz(wave[36000:56000]) == pytest.approx(880, abs=1)


@pytest.mark.parametrize("way", WAYS)
def test_more_channels_do_not_become_louder(tmp_path: Path, way: str) -> None:
    path = write_sound(tmp_path / "round.wav", tone(440, 1.0, 48000, 6, loudness=0.9), 48000, "pcm_s16le")
    assert 0.5 < np.abs(read_audio(path, way)[1000:15000]).max() < 0.95


def test_the_mean_of_the_channels_is_taken(tmp_path: Path) -> None:
    left = np.stack([tone(440, 1.0, 44100)[0], np.zeros(44100, np.float32)])
    path = write_sound(tmp_path / "left.wav", left, 44100, "pcm_s16le")
    for way in WAYS:
        assert level(read_audio(path, way)[1000:15000]) == pytest.approx(0.25 * np.sqrt(0.5), rel=0.01)


@pytest.mark.parametrize(
    ("microseconds", "seconds"), [(9995000, 10.0), (9994999, 9.99), (61404999, 61.4), (3661235000, 3661.24), (4999, 0)]
)
def test_seconds_are_those_that_ffmpeg_prints(tmp_path: Path, microseconds: int, seconds: float, monkeypatch) -> None:
    class Container:
        streams = av.open(str(write_wav(tmp_path / "a.wav", np.zeros((10, 2), "<i2")))).streams
        duration = microseconds

    monkeypatch.setattr(audio, "InputContainer", Container)
    assert audio_seconds(Container()) == pytest.approx(seconds, abs=1e-9)


def test_seconds_are_the_same_of_path_open_file_and_metadata(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "clip.mp4", tone(440, 1.0, 44100), 44100, "aac", picture_seconds=2.37)
    with av.open(str(path)) as container:
        assert audio_seconds(container) == audio_seconds(path) == probe(path).audio_seconds == 2.4
    assert len(read_audio(path)) == len(read_silence(path)) == 38400
    assert not read_silence(path).any()


def test_a_file_of_sound_alone_is_described(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.mp3", tone(440, 1.5, 44100), 44100, "mp3")
    info = probe(path)
    assert (info.kind, info.has_audio, info.width, info.height, info.num_frames) == ("audio", True, 0, 0, 0)
    assert info.audio_seconds == info.duration == 1.5


def test_a_file_that_does_not_say_how_long_it_is_is_measured(tmp_path: Path) -> None:
    sound = tone(440, 2.0, 48000)
    path = write_sound(tmp_path / "live.webm", sound, 48000, "libopus", muxing={"live": "1"})
    with av.open(str(path)) as container:
        assert container.duration is None
    assert audio_seconds(path) == pytest.approx(2.0, abs=0.03)
    assert level(read_audio(path)[:31000]) > 0.3


def test_a_wav_whose_writer_did_not_know_its_size_is_whole(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", tone(440, 1.0, 16000), 16000, "pcm_s16le")
    content = bytearray(path.read_bytes())
    sizes = (4, content.find(b"data") + 4)
    for place in sizes:
        content[place : place + 4] = b"\xff" * 4
    path.write_bytes(content)
    assert level(read_audio(path)) > 0.3
    content[sizes[1] : sizes[1] + 4] = bytes(4)
    path.write_bytes(content[: sizes[1] + 4])
    assert audio_seconds(path) == 0 and read_audio(path).shape == (0,)


@pytest.mark.parametrize("way", WAYS)
def test_a_track_without_anything_in_it_is_silence(tmp_path: Path, way: str) -> None:
    path = write_sound(tmp_path / "mute.mkv", np.zeros((1, 0), np.float32), 48000, "aac", picture_seconds=1.0)
    wave = read_audio(path, way)
    assert len(wave) == 16000 and not wave.any()


@pytest.mark.parametrize("path", REAL, ids=[path.stem for path in REAL])
def test_both_ways_hear_the_same_in_real_files(path: Path) -> None:
    clean, nearest = read_audio(path, "clean"), read_audio(path, "nearest")
    assert clean.shape == nearest.shape == (num_samples(probe(path).audio_seconds),)
    if level(clean) < 1e-4:
        assert level(nearest) < 1e-4
        return
    assert np.corrcoef(clean, nearest)[0, 1] > 0.9


def test_a_wave_is_decoded_once_while_its_file_stays_the_same(tmp_path: Path, monkeypatch) -> None:
    path = write_sound(tmp_path / "a.wav", tone(440, 1.0, 16000), 16000, "pcm_s16le")
    decoded: list[str] = []
    real = audio._read
    monkeypatch.setattr(audio, "_read", lambda path, way: decoded.append(way) or real(path, way))
    first = read_audio(path)
    assert read_audio(str(path)) is first and decoded == ["clean"]
    with pytest.raises(ValueError):
        first[0] = 1
    read_audio(path, "nearest")
    read_audio(path)
    assert decoded == ["clean", "nearest", "clean"]
    write_sound(path, tone(880, 1.0, 16000), 16000, "pcm_s16le")
    os.utime(path, ns=(1, 1))
    assert strongest_hertz(read_audio(path)) == pytest.approx(880, abs=1.5)
    monkeypatch.setattr(audio, "_KEPT_BYTES", 0)
    os.utime(path, ns=(2, 2))
    assert read_audio(path) is not read_audio(path)


def no_sound(folder: Path) -> Path:
    return write_picture_only(folder / "a.mp4")


def picture(folder: Path) -> Path:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    return folder / "a.png"


def text(folder: Path) -> Path:
    (folder / "a.wav").write_text("This is no sound.\n" * 100)
    return folder / "a.wav"


def missing(folder: Path) -> Path:
    return folder / "a.mp3"


def empty(folder: Path) -> Path:
    (folder / "a.flac").touch()
    return folder / "a.flac"


def noise(channels: int, rate: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (channels, 4 * rate)).astype(np.float32)


def cut(folder: Path, name: str, codec: str, rate: int = 48000, **options) -> Path:
    path = write_sound(folder / name, noise(2, rate), rate, codec, **options)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def damaged(folder: Path, name: str, codec: str) -> Path:
    path = write_sound(folder / name, noise(2, 48000), 48000, codec)
    content = bytearray(path.read_bytes())
    begin, length = len(content) // 3, len(content) // 4
    content[begin : begin + length] = bytes(length)
    path.write_bytes(content)
    return path


def no_numbers(folder: Path) -> Path:
    values = tone(440, 1.0, 16000)
    values[0, 5000] = np.nan
    return write_sound(folder / "a.wav", values, 16000, "pcm_f32le")


BROKEN: list[tuple[str, Callable[[Path], Path], str]] = [
    ("no sound", no_sound, "has no sound"),
    ("picture", picture, "is an image file where sound is expected"),
    ("text", text, "is not a sound file of a known format"),
    ("missing", missing, "file does not exist"),
    ("empty", empty, "file is empty"),
    ("folder", lambda folder: folder, "is a folder, not a file"),
    ("index cut off", lambda folder: cut(folder, "a.m4a", "aac"), r"its index \(moov\) is missing"),
    (
        "mp4 cut off",
        lambda folder: cut(folder, "a.mp4", "aac", picture_seconds=4.0, muxing={"movflags": "faststart"}),
        r"is cut off: \d+ of \d+ frames are missing at its end",
    ),
    ("mkv cut off", lambda folder: cut(folder, "a.mkv", "libopus"), "is cut off: it ends after 2.. of 4.0 seconds"),
    ("wav cut off", lambda folder: cut(folder, "a.wav", "pcm_s16le"), "is damaged or cut off"),
    ("mp3 cut off", lambda folder: cut(folder, "a.mp3", "mp3"), "is damaged or cut off: it gives 2.. of 4.0 seconds"),
    ("flac cut off", lambda folder: cut(folder, "a.flac", "flac"), "is damaged or cut off: it gives"),
    ("m4a damaged", lambda folder: damaged(folder, "a.m4a", "aac"), r"is damaged: \d+ of \d+ packets of its sound"),
    ("ogg damaged", lambda folder: damaged(folder, "a.ogg", "libopus"), "is damaged or cut off: it gives"),
    ("mp3 damaged", lambda folder: damaged(folder, "a.mp3", "mp3"), "is damaged or cut off: it gives"),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("make", "reason"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_what_cannot_be_heard_is_named_with_its_reason(tmp_path: Path, make, reason: str, way: str) -> None:
    path = make(tmp_path)
    with pytest.raises(MediaError, match=reason) as caught:
        read_audio(path, way)
    assert caught.value.path == str(path) and "\n" not in str(caught.value)


def test_samples_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="holds samples that are no numbers"):
        read_audio(no_numbers(tmp_path), "clean")


@pytest.mark.parametrize(("broken", "heard"), [(1, True), (8, False)])
def test_one_broken_packet_is_silence_and_many_are_an_error(tmp_path: Path, broken: int, heard: bool) -> None:
    path = write_sound(tmp_path / "a.m4a", noise(2, 48000), 48000, "aac")
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for entry in list(container.streams.audio[0].index_entries)[90 : 90 + broken]:
            content[entry.pos : entry.pos + entry.size] = b"\xff" * entry.size
    path.write_bytes(content)
    if not heard:
        with pytest.raises(MediaError, match=f"is damaged: {broken} of 189 packets"):
            read_audio(path)
        return
    with av.open(str(path)) as container, pytest.raises(av.FFmpegError):
        list(container.decode(audio=0))
    wave = read_audio(path)
    assert level(wave[:16000]) > 0.1 and level(wave[-16000:-500]) > 0.1


def test_a_length_nobody_can_believe_is_refused(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.mkv", tone(440, 1.0, 48000), 48000, "libopus", picture_seconds=1.0)
    content = bytearray(path.read_bytes())
    place = content.find(b"\x44\x89\x88") + 3  # the segment's duration, a float of 8 bytes, in milliseconds
    content[place : place + 8] = np.array(1e12, ">f8").tobytes()
    path.write_bytes(content)
    for read in (read_audio, read_silence):
        with pytest.raises(MediaError, match="claims to last 277778 hours"):
            read(path)


def write_wav(path: Path, values: np.ndarray, rate: int = 44100) -> Path:
    """Shape: int16 (n, channels)"""
    with riff.open(str(path), "wb") as file:
        file.setnchannels(values.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(values.tobytes())
    return path


def test_the_sound_track_that_is_marked_as_default_is_read(tmp_path: Path) -> None:
    path, tracks = tmp_path / "two.mkv", ("anullsrc=d=1:r=16000", "sine=d=1:r=16000")
    inputs = [word for track in tracks for word in ("-f", "lavfi", "-i", track)]
    marks = ("-map", 0, "-map", 1, "-disposition:a:0", 0, "-disposition:a:1", "default")
    ffmpeg(*inputs, *marks, "-c:a", "pcm_s16le", path)
    assert np.abs(read_audio(path)).max() > 0.05
