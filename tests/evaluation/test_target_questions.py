"""Questions about a boxed target, asked of a real checkpoint of a few thousand weights about real frames."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from qa_sets import records
from tiny_checkpoint import TOWER
from tiny_language_models import CONFIGS, byte_tokenizer, sharpen

from vidtune.checkpoints.fit_processor import build_processor
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.evaluation.asking.shared_videos import Session
from vidtune.evaluation.benchmarks.check import check_test_set
from vidtune.evaluation.checkpoint import AnsweringOptions, opened
from vidtune.evaluation.predict import Variant, predict_benchmark
from vidtune.evaluation.protocol_of_checkpoint import protocol_for
from vidtune.evaluation.scores.scoring import score_run
from vidtune.models.video_lm import VideoLM
from vidtune.registry import BENCHMARKS, SYSTEMS

SHORT = {"generation": {"max_new_tokens": 12, "do_sample": False}}
REGION = {"inner_size": 8, "position_size": 8, "roi_size": 2}


class Model:
    """A checkpoint in memory."""

    def __init__(self):
        torch.manual_seed(0)
        system = SYSTEMS["artemis"]
        tower = {**TOWER, "num_hidden_layers": 5, "pooled_frames": 3}
        config = system.architecture.build_config(CONFIGS["llama"], {"clip": tower}, {"region": REGION})
        self.model = VideoLM(config).eval()
        sharpen(self.model)
        self.processor = build_processor(config, byte_tokenizer())


@pytest.fixture(scope="module")
def model():
    return opened(Model())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two targets in one folder of frames, whose halves differ; the second has stored features too."""
    folder = tmp_path_factory.mktemp("targets")
    (folder / "frames").mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        pixels = np.zeros((28, 28, 3), np.uint8)
        pixels[:, :14] = rng.integers(200, 256, (28, 14, 3))
        Image.fromarray(pixels).save(folder / "frames" / f"{number}.png")
    with (folder / "clip.pkl").open("wb") as file:
        pickle.dump(rng.normal(size=(3 + 4, TOWER["hidden_size"])).astype(np.float16), file)
    names = [f"{number}.png" for number in range(12)]
    common = {"frame_path": "frames", "frame_id": names, "key_frame_id": "3.png", "caption": "The man sits."}
    boxes = ([0, 0, 13, 28], [15, 0, 28, 28])
    entries = [
        {**common, "video_name": f"{n}.mp4", "key_frame_box": box, "track_list": [box] * 12}
        for n, box in enumerate(boxes)
    ]
    entries.append({**entries[0], "video_name": "2.mp4", "clip_path": "clip.pkl"})
    entries.append({**entries[0], "video_name": "3.mp4", "key_frame_box": [40, 0, 50, 9]})  # outside its frame
    entries.append({**entries[0], "video_name": "4.mp4", "key_frame_box": [9, 0, 2, 9]})
    (folder / "hc_stvg_val.json").write_text(json.dumps(entries))
    return folder


def asked(model, data, out, benchmark="videoref_bench", **given):
    variant, answering = Variant(overrides=SHORT, **given), AnsweringOptions(workers=0)
    return predict_benchmark(model, benchmark, data, out, variant, answering, Session(progress=False))


def test_boxes_reach_the_answers_and_wrong_ones_fail_alone(model, data, tmp_path):
    summary = asked(model, data, tmp_path)
    found = {record["index"]: record for record in records(summary.run_dir / "predictions.jsonl")}
    assert (summary.answered, summary.errors) == (3, 1)
    assert "outside the frame" in found[3]["error"]
    assert found[0]["pred"] != found[1]["pred"]  # the same frames, another box
    assert found[2]["pred"] != found[0]["pred"]  # the same box, other features of the whole video
    score = score_run(summary.run_dir, progress=False)
    assert score.group("target").questions == 5 and "1 failed" in str(score)
    assert "1 without file: wrong box (4.mp4: key_frame_box has reversed corners" in str(score)
    found = check_test_set(BENCHMARKS["videoref_bench"], data, {})
    assert found.found == {"folder": 3, ".pkl": 1} and list(found.missing) == ["4.mp4"]
    assert (tmp_path / "videoref_bench" / "files.jsonl").is_file()
    without = asked(model, data, tmp_path, without=("box", "track"))
    blind = {record["index"]: record["pred"] for record in records(without.run_dir / "predictions.jsonl")}
    assert without.run_dir.name == "videoref_bench-without-box-track" and blind[0] == blind[1]


def test_the_protocol_holds_how_boxes_are_chosen_and_read(model, data):
    protocol = protocol_for(model, BENCHMARKS["videoref_bench"])
    assert protocol.prompt_format == "llava_v1" and protocol.generation.stop == ("</s>",)
    track = protocol.question_media["track"]
    assert (track["num_boxes"], track["choice"], track["follow_crop"]) == (8, "average", False)
    whole = protocol_for(model, BENCHMARKS["videoref_bench_whole"])
    assert whole.question_media["track"] == {**track, "choice": "whole"}
    corrected = protocol_for(
        model, BENCHMARKS["videoref_bench"], overrides={"question_media": {"track": {"follow_crop": True}}}
    )
    assert corrected.question_media["track"]["follow_crop"] and corrected.hash != protocol.hash
    drawn = {"question_media": {"track": {"choice": "random"}}}
    with pytest.raises(UserError, match=r"videoref_bench: question_media\.track: choice: random draws boxes only"):
        protocol_for(model, BENCHMARKS["videoref_bench"], overrides=drawn)


def test_video_questions_are_asked_with_the_settings_of_the_system(model):
    for name in ("msvd_qa", "msrvtt_qa", "activitynet_qa", "video_chatgpt"):
        protocol = protocol_for(model, BENCHMARKS[name])
        generation = protocol.generation
        assert (generation.do_sample, generation.temperature, generation.top_k) == (True, 0.2, 50)
        assert (generation.max_new_tokens, generation.stop) == (1024, ("</s>",))
        assert protocol.question_template == "{media}\n{question}" and protocol.prompt_format == "llava_v1"


def test_a_system_without_boxes_is_refused(model, data, tmp_path):
    other = Model()
    other.processor = other.processor.with_preprocessing({})
    other.processor.streams = {name: part for name, part in other.processor.streams.items() if name != "box"}
    with pytest.raises(UserError, match="videoref_bench needs the stream 'box'; this checkpoint has: "):
        asked(opened(other), data, tmp_path)


@pytest.mark.parametrize("stream", ["box", "track"])
def test_stored_features_do_not_stand_in_for_boxes(stream, model, data):
    refused = f"features cannot stand in for the files of the stream '{stream}'"
    with pytest.raises(UserError, match=refused):
        protocol_for(model, BENCHMARKS["videoref_bench"], features=[stream])
    processor, prompt = model.checkpoint.processor, SYSTEMS["artemis"].dialect.answering_prompt
    with pytest.raises(SampleProblem, match=refused):
        processor.question_example("What is <box>?", [MediaRef(stream, str(data / "clip.pkl"))], prompt)
