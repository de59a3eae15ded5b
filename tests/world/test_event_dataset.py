import json
import re
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from vidtune.errors import UserError
from vidtune.media.probe import probe
from vidtune.media.video import read_frames
from vidtune.world import EVENT_TEST_SET, EventWorldSpec, build_event_world
from vidtune.world.event_dataset import BOUNDARY_PERCEPTION, INSTRUCTION_TUNING, PERCEIVED
from vidtune.world.event_render import VOWELS, draw_event_frames, draw_event_sound
from vidtune.world.events import SLOT_SECONDS, EventClip, TimedEvent
from vidtune.world.render import SAMPLE_RATE
from vidtune.world.scene import COLOURS

AAC_PRIMING = 1024  # samples of silence that the encoder puts first
SPEC = EventWorldSpec(videos=10, test_videos=4, choice_videos=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("events")
    build_event_world(out, SPEC, texts=["A chat."], workers=1)
    return out


def files_of(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def heard(path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])[AAC_PRIMING:]


def read(world, name):
    return json.loads((world / name).read_text())


def test_frames_show_an_event_from_its_start_to_its_end(world):
    seen = 0
    for id_, clip in SPEC.clips("train"):
        path = world / "videos" / f"{id_}.mp4"
        info = probe(str(path))
        assert (info.width, info.height, info.fps, info.has_audio) == (48, 48, SPEC.fps, True)
        assert info.num_frames == SPEC.slots * SPEC.frames
        frames = read_frames(str(path), range(info.num_frames)).astype(int)
        assert np.abs(frames - draw_event_frames(clip, SPEC.fps, 48)).mean() < 4
        for t, frame in enumerate(frames):
            slot = t // SPEC.frames * SLOT_SECONDS
            event = next((e for e in clip.events if e.start == pytest.approx(slot)), None)
            bar, above = frame[-2:].mean((0, 2)), frame[:-4]
            assert abs((bar > 110).mean() - (t + 1) / len(frames)) < 0.06  # how far the clip has run
            drawn = above[abs(above - 30).max(-1) > 40]
            if event is None or event.sight is None:
                assert len(drawn) < 20
                continue
            likeness = np.corrcoef(COLOURS[event.sight.colour], drawn)[0, 1:]
            assert len(drawn) > 60 and np.mean(likeness > 0.8) > 0.8
            seen += 1
    assert seen > 50


def test_the_track_sounds_from_an_events_start_to_its_end(world):
    for id_, clip in SPEC.clips("test"):
        track = heard(world / EVENT_TEST_SET / "videos" / f"{id_}.mp4")
        drawn = draw_event_sound(clip)
        length = min(len(track), len(drawn))
        assert np.corrcoef(track[:length], drawn[:length])[0, 1] > 0.9
        loud = [np.abs(part).max() > 0.05 for part in np.array_split(drawn, round(clip.duration))]
        assert any(loud) == any(e.sound or e.word for e in clip.events)
        for event in clip.events:
            inside = track[round((event.start + 0.2) * SAMPLE_RATE) : round((event.end - 0.2) * SAMPLE_RATE)]
            assert (np.abs(inside).max() > 0.05) == (event.sound is not None or event.word is not None)


def spectrum(event: TimedEvent) -> np.ndarray:
    """Loudness in bands of 50 Hz, (160,)."""
    track = draw_event_sound(EventClip(6.0, (event,)))
    power = np.abs(np.fft.rfft(track[: SAMPLE_RATE * 5])) ** 2
    return np.array([part.sum() for part in np.array_split(power, 160)])


def test_words_are_told_apart_by_their_formants():
    for word, vowel in (("alpha", "a"), ("kiwi", "i"), ("lulu", "u")):
        loud = spectrum(TimedEvent(0.0, 6.0, word=word))
        strongest = [loud[formant // 50 - 2 : formant // 50 + 3].max() for formant in VOWELS[vowel]]
        elsewhere = [k for k in range(160) if all(abs(k * 50 + 25 - formant) > 350 for formant in VOWELS[vowel])]
        assert min(strongest) > 20 * loud[elsewhere].max()
    assert len({spectrum(TimedEvent(0.0, 6.0, word=word)).argmax() for word in ("alpha", "kiwi", "echo")}) == 3


def test_sounds_are_told_apart_by_their_pitch():
    pitch = {
        sound: spectrum(TimedEvent(0.0, 6.0, sound=sound)).argmax() * 50
        for sound in ("high tone rings", "low tone hums", "siren wails")
    }
    assert pitch["low tone hums"] < 200 < 500 <= pitch["siren wails"] < 2100 < pitch["high tone rings"] < 2300
    drum = spectrum(TimedEvent(0.0, 6.0, sound="drum beats"))
    assert np.median(drum) > 0.05 * drum.max()


def test_training_annotations_are_in_the_official_format(world):
    clips = dict(SPEC.clips("train"))
    for name in (*PERCEIVED.values(), BOUNDARY_PERCEPTION, INSTRUCTION_TUNING):
        samples = read(world, name)
        told = [sense for sense, file in PERCEIVED.items() if file == name]
        expected = [i for i, clip in clips.items() if not told or any(event.told_by(*told) for event in clip.events)]
        assert [sample["id"] for sample in samples] == expected and len(expected) > 4
        for sample in samples:
            id_, clip = sample["id"], clips[sample["id"]]
            assert (sample["id"], sample["video"], sample["source"]) == (id_, f"{id_}.mp4", "events")
            assert (world / "videos" / sample["video"]).is_file()
            turns = sample["conversations"]
            assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
            assert turns[0]["value"].startswith("<video>\n")
            assert sample["meta"]["duration"] == clip.duration
            used = set(re.findall(r"<[set]\d+>", " ".join(turn["value"] for turn in turns)))
            assert used == set(sample["meta"]["token"])
            for mark, moment in sample["meta"]["token"].items():
                if mark[1] != "t":
                    event = clip.events[int(mark[2:-1])]
                    assert moment == (event.start if mark[1] == "s" else event.end)


def test_boundary_perception_has_one_clip_in_five_told_whole(world):
    turns = [len(sample["conversations"]) // 2 for sample in read(world, BOUNDARY_PERCEPTION)]
    whole = [k for k, sample in enumerate(read(world, BOUNDARY_PERCEPTION)) if "List" in str(sample["conversations"])]
    assert whole == [0, 5] and all(turns[k] == 1 for k in whole)


@pytest.mark.parametrize(("split", "folder"), [("test", EVENT_TEST_SET), ("choice", Path("eval/choice"))])
def test_the_test_sets_are_in_the_official_layout(world, split, folder):
    annotations = read(world, folder / "annotations.json")
    assert list(annotations) == [id_ for id_, _ in SPEC.clips(split)]
    for id_, clip in SPEC.clips(split):
        assert (world / folder / "videos" / f"{id_}.mp4").is_file()
        assert annotations[id_]["duration"] == clip.duration
        assert annotations[id_]["timestamps"] == [[event.start, event.end] for event in clip.events]
        assert annotations[id_]["sentences"] == [event.sentence for event in clip.events]


def test_truth_tells_every_event(world):
    truth = read(world, "truth.json")
    assert {split: len(clips) for split, clips in truth.items()} == {"train": 10, "test": 4, "choice": 2}
    assert truth["train"]["train_00003"] == json.loads(json.dumps(asdict(SPEC.clip("train", 3))))


def test_the_same_spec_gives_the_same_bytes_and_a_stopped_call_goes_on(world, tmp_path):
    build_event_world(tmp_path, SPEC, texts=["A chat."], workers=2)
    assert files_of(tmp_path) == files_of(world)
    (tmp_path / "videos" / "train_00003.mp4").unlink()
    (tmp_path / BOUNDARY_PERCEPTION).unlink()
    kept = (tmp_path / "videos" / "train_00001.mp4").stat().st_mtime_ns
    build_event_world(tmp_path, SPEC, texts=["A chat."], workers=1)
    assert files_of(tmp_path) == files_of(world)
    assert (tmp_path / "videos" / "train_00001.mp4").stat().st_mtime_ns == kept


def test_a_folder_with_another_world_is_refused(world):
    with pytest.raises(UserError, match="another size or seed"):
        build_event_world(world, replace(SPEC, seed=1), workers=1)


def test_a_clip_is_a_small_file(world):
    assert max(path.stat().st_size for path in world.rglob("*.mp4")) < 150_000


def test_the_tokenizer_gives_every_digit_a_token_of_its_own(world):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(world / "tokenizer")
    digits = {tokenizer.convert_tokens_to_ids(digit) for digit in "0123456789"}
    assert len(digits) == 10 and tokenizer.unk_token_id not in digits
    pieces = tokenizer.tokenize("From 05 to 97, a red circle moves left.")
    assert [piece for piece in pieces if any(letter.isdigit() for letter in piece)] == ["0", "5", "9", "7"]
    assert len(tokenizer.tokenize("a voice says alpha.")) < 8


def test_a_faint_hum_tells_every_window_when_it_is():
    windows = np.array_split(draw_event_sound(EventClip(5 * SLOT_SECONDS, ())), 5)
    centres = []
    for window in windows:
        power = np.abs(np.fft.rfft(window)) ** 2
        centres.append((power * np.fft.rfftfreq(len(window), 1 / SAMPLE_RATE)).sum() / power.sum())
    assert all(later - earlier > 800 for earlier, later in pairwise(centres))
    assert max(np.abs(window).max() for window in windows) < 0.05
