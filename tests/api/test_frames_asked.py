"""How many and which frames of a video are read: by default, more of them, those of a part, those at given seconds."""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_clips import decode_plainly, write_clip
from tiny_language_models import CONFIGS, byte_tokenizer
from torch.nn.functional import interpolate
from videochat_flash_fixture import byte_tokenizer as with_special_tokens

import vidtune
from vidtune.checkpoints.fit_processor import build_processor
from vidtune.cli.main import run
from vidtune.data.sample import MediaRef
from vidtune.features.answering import AnsweringFeatures
from vidtune.generation.engine import AnswerEngine
from vidtune.generation.settings import Answer, GenerationSettings, Request
from vidtune.media.clip_times import Part
from vidtune.media.preprocessing.kinds import as_read
from vidtune.media.preprocessing.resize_keeping_aspect import AnyPixelVideoPreprocessing
from vidtune.media.preprocessing.resize_to_square import VideoPreprocessing
from vidtune.media.worker import Loaded, LoadJob, execute
from vidtune.models.video_lm import VideoLM
from vidtune.processing.processor import VideoLMProcessor
from vidtune.registry import SYSTEMS

QUESTION = "What moves?"
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
STAB = {"hidden_size": 16, "image_size": 56, "patch_size": 14, "clip_heads": 2, "frame_heads": 2}
TINY = {
    "video_llava": ({"image": SMALL, "video": {**SMALL, "num_frames": 8}}, {}),
    "video_panda": ({"video": STAB}, {}),
    "longvale": ({"vision": {**SMALL, "width": 16, "num_frames": 20}}, {}),
    "artemis": ({"clip": {**SMALL, "num_hidden_layers": 4, "pooled_frames": 10}}, {}),
    "videochat_flash": ({"vision": {**SMALL, "patch_size": 7}}, {"visual": {"tokens": 4}}),
}


@cache
def tiny(system: str) -> tuple[VideoLM, VideoLMProcessor]:
    torch.manual_seed(0)
    towers, connectors = TINY[system]
    config = SYSTEMS[system].architecture.build_config(CONFIGS["llama"], towers, connectors)
    chatml = {"<|im_start|>": 256, "<|im_end|>": 257, "<|endoftext|>": 258}
    tokenizer = with_special_tokens(chatml) if system == "videochat_flash" else byte_tokenizer()
    return VideoLM(config).eval(), build_processor(config, tokenizer)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", num_frames=40))


def answers(system: str, *media: MediaRef) -> list[Answer]:
    """The answer to one question about each medium."""
    model, processor = tiny(system)
    settings, prompt = GenerationSettings(max_new_tokens=1), SYSTEMS[system].dialect.answering_prompt
    with AnswerEngine(model, processor, settings, prompt=prompt, workers=0) as engine:
        requests = [Request(str(number), (ref,), QUESTION) for number, ref in enumerate(media)]
        return sorted(engine.answer(requests), key=lambda answer: int(answer.id))


@pytest.mark.parametrize(
    ("system", "frames", "tokens", "told"),
    [
        ("video_llava", 16, 16 * 5, "16 frames where the model was trained with 8"),
        ("video_llava", 1, 5, "1 frame where the model was trained with 8"),
        ("video_panda", 12, 12 * 7, "12 frames where the model was trained with 1 to 8"),
        ("longvale", 30, 30, "30 frames where the model was trained with 20"),
        ("artemis", 12, 12 + 4, "12 frames where the model was trained with 1 to 10"),
        ("artemis", 6, 10 + 4, ""),
        ("videochat_flash", 12, 3 * 4, "12 frames where the model was trained with 8 to 512"),
        ("videochat_flash", 16, 4 * 4, ""),
    ],
)
def test_every_system_reads_another_number_of_frames_and_says_so(
    system: str, frames: int, tokens: int, told: str, clip: str
) -> None:
    model, processor = tiny(system)
    ref = MediaRef("video", clip, num_frames=frames)
    before = {name: tensor.clone() for name, tensor in model.towers.state_dict().items()}
    [asked, usual] = answers(system, ref, replace(ref, num_frames=None))
    assert (asked.error, asked.untrained, usual.error, usual.untrained) == (None, told, None, "")
    assert processor.reader.measure(ref).tokens == tokens
    assert all(torch.equal(before[name], tensor) for name, tensor in model.towers.state_dict().items())


@pytest.mark.parametrize(
    ("system", "frames", "reason"),
    [
        ("video_panda", 6, "6 frames are not whole chunks of 4; give 4 or 8 frames"),
        ("videochat_flash", 6, "6 frames do not divide into clips of 4; give 4 or 8 frames"),
        ("videochat_flash", 1, "1 frames do not divide into clips of 4; give 4 frames"),
        ("video_llava", 200, r"no room for an answer; .*\(\d+ frames of its videos fit: --frames\)"),
    ],
)
def test_what_a_system_cannot_read_is_refused_and_says_what_it_can(
    system: str, frames: int, reason: str, clip: str
) -> None:
    [refused] = answers(system, MediaRef("video", clip, num_frames=frames))
    assert refused.error is not None and "\n" not in refused.error
    assert re.search(reason, refused.error)


def test_the_frames_that_fit_fit(clip: str) -> None:
    [refused] = answers("video_llava", MediaRef("video", clip, num_frames=200))
    most = int(re.search(r"(\d+) frames of its videos fit", str(refused.error))[1])  # type: ignore[index]
    fits, exceeds = answers("video_llava", *(MediaRef("video", clip, num_frames=most + one) for one in (0, 1)))
    assert fits.error is None and exceeds.error is not None


def test_positions_over_time_are_interpolated_linearly() -> None:
    model, _ = tiny("video_llava")
    tower = model.tower_with("video", (("num_frames", 16),))
    assert tower is model.tower_with("video", (("num_frames", 16),)), "built once"
    for own, longer in zip(model.towers["video"].encoder.layers, tower.encoder.layers, strict=True):
        table = own.temporal_embedding.detach().transpose(1, 2)
        expected = interpolate(table, 16, mode="linear", align_corners=False).transpose(1, 2)
        torch.testing.assert_close(longer.temporal_embedding.detach(), expected, atol=1e-6, rtol=0)
        assert longer.mlp.fc1.weight.data_ptr() == own.mlp.fc1.weight.data_ptr(), "all other weights are shared"
    one = model.tower_with("video", (("num_frames", 1),))
    assert not any(layer.temporal_embedding.any() for layer in one.encoder.layers)
    with torch.no_grad():
        model.towers["video"].encoder.layers[0].temporal_embedding.add_(1)
    assert model.tower_with("video", (("num_frames", 16),)) is not tower, (
        "of weights that have changed, it is built anew"
    )


PREPROCESSING = (
    VideoPreprocessing(size=28, num_frames=8),
    VideoPreprocessing(size=28, num_frames=8, min_frames=4, multiple_of=2, sampling="per_second_middles"),
    VideoPreprocessing(size=28, num_frames=8, sampling="per_second"),
    AnyPixelVideoPreprocessing(size=56, num_frames=8),
)


@pytest.mark.parametrize("usual", PREPROCESSING, ids=lambda steps: f"{steps.kind}-{steps.sampling}")
def test_frames_at_seconds_are_these_frames(usual: VideoPreprocessing, clip: str) -> None:
    part = Part(frames_at=(0.0, 1.25, 1.25, 3.9))
    steps, frames = as_read(usual, part=part), decode_plainly(Path(clip))
    loaded = execute(LoadJob(clip, steps, part=part))
    assert isinstance(loaded, Loaded)
    wanted = np.stack([frames[index] for index in (0, 12, 12, 39)])
    assert np.array_equal(loaded.values, steps.apply(wanted).numpy())
    assert loaded.values.shape == steps.output_shape()


def test_frames_of_a_part_are_those_of_a_file_that_was_cut(tmp_path: Path, clip: str) -> None:
    frames = decode_plainly(Path(clip))
    part, steps = Part(1.0, 3.0, frames=6), VideoPreprocessing(size=28, num_frames=8)
    loaded = execute(LoadJob(clip, as_read(steps, part=part), part=part))
    assert isinstance(loaded, Loaded)
    cut = VideoPreprocessing(size=28, num_frames=6).apply(np.stack(frames[10:30]))
    assert np.array_equal(loaded.values, cut.numpy())


def test_the_usual_number_given_changes_nothing(in_examples: Path) -> None:
    model = vidtune.load("tiny-model")
    usual = model.answer(QUESTION, video="clip.mp4", max_new_tokens=4)
    same = model.answer(QUESTION, video="clip.mp4", frames=2, max_new_tokens=4)
    ends = model.answer(QUESTION, video="clip.mp4", frames_at=[0, 3.9], max_new_tokens=4)
    assert usual == same == ends and not (same.untrained or ends.untrained)
    other = model.answer(QUESTION, video="clip.mp4", frames=6, max_new_tokens=4)
    assert other != usual and other.untrained == "6 frames where the model was trained with 2"
    ref = MediaRef("video", str(in_examples / "clip.mp4"))
    counts = [model.processor.reader.measure(replace(ref, num_frames=frames)).tokens for frames in (2, 6)]
    assert counts[1] == 3 * counts[0], "a loaded processor knows the towers of its model"
    talk = model.chat(video="clip.mp4", frames=6, max_new_tokens=4)
    assert talk.say(QUESTION) == other and talk.turns[1].text == other


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"frames": 0}, "frames=: frames is 0; give a whole number of frames, 1 or more"),
        ({"frames": "8"}, "frames=: frames is '8'; give a whole number of frames, 1 or more"),
        ({"frames": 8.0}, "frames=: frames is 8; give a whole number of frames, 1 or more"),
        ({"frames_at": [2.5, 1]}, "frames_at=: .* give the seconds in ascending order"),
        ({"frames_at": [-1, 1]}, "frames_at=: frames_at is -1 seconds; give 0 or more"),
        ({"frames_at": [float("nan")]}, "frames_at=: frames_at is nan seconds; give 0 or more"),
        ({"frames_at": []}, "frames_at=: names no second"),
        ({"frames_at": "1"}, "frames_at=: expected a list of seconds, found '1'"),
        (
            {"frames_at": [1], "frames": 2},
            "frames_at=: given seconds of frames leave nothing to choose; leave out start, end",
        ),
        ({"frames_at": [4.1]}, r"clip\.mp4: its frame at 4\.1 s was asked for, but it ends after 4\.00 s"),
        ({"start": 3, "end": 1}, "start= and end=: start is 3 and end 1 seconds; the end must come after it"),
        ({"start": float("inf")}, "start= and end=: start is inf seconds; give 0 or more"),
        ({"start": 4}, r"clip\.mp4: its part from 4 s on was asked for, but it ends after 4\.00 s"),
        ({"frames": 9, "video": None}, "frames=: is for videos; none is given"),
    ],
)
def test_impossible_frames_are_refused_in_one_line(given: dict[str, object], reason: str, in_examples: Path) -> None:
    with pytest.raises(vidtune.UserError, match=reason) as refused:
        vidtune.load("tiny-model").answer(QUESTION, **{"video": "clip.mp4", **given})
    assert "\n" not in str(refused.value)


def test_the_command_line_marks_answers_of_untrained_lengths(
    in_examples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["answer", "tiny-model", "--question", QUESTION, "--video", "clip.mp4", "--device", "cpu", "--json"]
    assert run([*words, "--frames", "4", "--max-new-tokens", "2"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["untrained_length"] == "4 frames where the model was trained with 2"
    assert "untrained length: 4 frames where the model was trained with 2" in captured.err
    assert run([*words, "--frames-at", "0,1.5", "--max-new-tokens", "2"]) == 0
    captured = capsys.readouterr()
    assert "untrained" not in captured.out + captured.err
    assert run([*words, "--frames-at", "0,x"]) == 2
    assert "--frames-at 0,x: write seconds and commas, as 1.0,2.5" in capsys.readouterr().err


def test_stored_features_are_found_by_their_number_of_frames(tmp_path: Path, clip: str) -> None:
    model, processor = tiny("video_llava")
    settings, ref = GenerationSettings(max_new_tokens=1), MediaRef("video", clip)
    refs = [ref, replace(ref, num_frames=4), replace(ref, num_frames=8), replace(ref, frames_at=(0.0, 1.0))]

    def ask() -> tuple[list[Answer], int]:
        stored = AnsweringFeatures(tmp_path / "store", model, processor)
        with AnswerEngine(model, processor, settings, prompt="llava_v1", workers=0, stored=stored) as engine:
            found = list(engine.answer(Request(str(number), (one,), QUESTION) for number, one in enumerate(refs)))
            return found, engine.stats.features_found

    first, second = ask(), ask()
    assert [answer.token_ids for answer in first[0]] == [answer.token_ids for answer in second[0]]
    assert (first[1], second[1]) == (0, 3), "frames at seconds are read anew"
    assert len(list((tmp_path / "store").glob("*/collection.json"))) == 2, "8 frames are those of the model"


def test_an_evaluation_with_other_frames_has_a_protocol_of_its_own(in_examples: Path) -> None:
    model = vidtune.load("tiny-model")

    def protocol(folder: str, **rules: object) -> dict[str, object]:
        changes = {"reading": rules} if rules else {}
        vidtune.evaluate(model, "world_qa", data="world", out=folder, protocol=changes, progress=False)
        [run] = Path(folder).glob("*/run.json")
        found: dict[str, object] = json.loads(run.read_text())
        return found

    usual, same, other = protocol("a"), protocol("b", frames=2), protocol("c", frames=4)
    assert usual["protocol_hash"] == same["protocol_hash"] != other["protocol_hash"]
    assert "reading" not in usual["protocol"] and "untrained_length" not in usual["protocol"]
    assert other["protocol"]["reading"] == {"frames": 4}
    assert other["protocol"]["untrained_length"] == "4 frames where the model was trained with 2"
    assert [path.name for path in Path("c").iterdir() if path.is_dir()] == ["world_qa-frames-4"]
