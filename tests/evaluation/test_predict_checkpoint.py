"""A real checkpoint, real videos, the real engine: protocol, blind runs, broken files, resuming."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "generation"))

from qa_sets import records, write_set, write_video
from tiny_language_models import CONFIGS, byte_tokenizer, sharpen

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks import get_benchmark
from vidtune.evaluation.checkpoint import open_checkpoint, protocol_for
from vidtune.evaluation.predict import predict_benchmark
from vidtune.evaluation.run_folder import RunFolder
from vidtune.models.build import build_processor
from vidtune.models.video_lm import VideoLM
from vidtune.systems import get_system

TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
QUICK = {"workers": 0, "progress": False, "overrides": {"generation": {"max_new_tokens": 4}}}
ENTRIES = [("red", "what?", "x"), ("blue", "what?", "x"), ("red", "who?", "y"), ("broken", "what?", "z")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    config = get_system("video_llava").build_config(
        CONFIGS["llama"], {"image": TOWER, "video": {**TOWER, "num_frames": 2}}, {}
    )
    model = VideoLM(config)
    sharpen(model)
    embeddings = model.towers["video"].embeddings
    for where in (embeddings.class_embedding, embeddings.position_embedding.weight):
        where.data.zero_()  # what is seen decides the answer, not where it is seen
    model.save_pretrained(folder)
    build_processor(config, byte_tokenizer()).save_pretrained(folder)
    (folder / "recipe.yaml").write_text("system: video_llava\n")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_set(tmp_path_factory.mktemp("data") / "set", ENTRIES, types=["a", "b", "a", "b"])
    write_video(folder / "videos" / "red.mp4", (200, 20, 20))
    write_video(folder / "videos" / "blue.mp4", (20, 20, 200))
    return folder


def test_a_checkpoint_answers_and_the_unreadable_video_is_named(checkpoint, data, tmp_path):
    summary = predict_benchmark(checkpoint, "world_qa", data, tmp_path, **QUICK)
    assert (summary.answered, summary.errors, summary.complete) == (3, 1, True)
    run = RunFolder(tmp_path / "world_qa")
    [failed] = [prediction for prediction in run.predictions() if prediction.error]
    assert "broken.mp4" in failed.error
    assert run.info.system == "video_llava" and run.info.recipe == "system: video_llava\n"
    assert run.info.protocol.preprocessing["num_frames"] == 2
    assert run.info.protocol.generation.stop
    again = predict_benchmark(checkpoint, "world_qa", data, tmp_path, **QUICK)
    assert again.asked_now == 0


def test_a_blind_run_sees_no_difference_between_videos(checkpoint, data, tmp_path):
    loaded = open_checkpoint(checkpoint)
    seeing = predict_benchmark(loaded, "world_qa", data, tmp_path, **QUICK).run_dir
    blind = predict_benchmark(loaded, "world_qa", data, tmp_path, blind=True, **QUICK).run_dir
    assert blind == tmp_path / "world_qa-blind"
    answers = {
        run: {record["id"]: record["pred"] for record in records(run / "predictions.jsonl") if "error" not in record}
        for run in (seeing, blind)
    }
    assert answers[blind]["red_0"] == answers[blind]["blue_1"]
    assert answers[seeing]["red_0"] != answers[seeing]["blue_1"]
    assert RunFolder(seeing).info.protocol_hash != RunFolder(blind).info.protocol_hash


def test_system_overrides_come_before_those_of_the_caller(checkpoint):
    loaded = open_checkpoint(checkpoint)
    benchmark = get_benchmark("world_qa")
    plain = protocol_for(loaded, benchmark)
    assert plain.prompt_format == loaded.system.answering_prompt
    own = {"world_qa": {"generation": {"max_new_tokens": 7}, "version": 3}, "msvd_qa": {"version": 5}}
    particular = replace(loaded, system=replace(loaded.system, protocols=own))
    assert protocol_for(particular, benchmark).generation.max_new_tokens == 7
    changed = protocol_for(particular, benchmark, overrides={"generation": {"max_new_tokens": 9}})
    assert (changed.generation.max_new_tokens, changed.version) == (9, 3)
    assert changed.generation.stop == plain.generation.stop


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"preprocessing": {"interpolation": "magic"}}, "interpolation"),
        ({"prompt_format": "llava_v9"}, "has no prompt format 'llava_v9'"),
        ({"stream": "audio"}, "needs the stream 'audio'"),
    ],
)
def test_rules_that_the_checkpoint_cannot_follow_are_refused(checkpoint, overrides, message):
    with pytest.raises(UserError, match=message):
        protocol_for(open_checkpoint(checkpoint), get_benchmark("world_qa"), overrides=overrides)


@pytest.mark.parametrize("dtype", ["float99", "nn"])
def test_an_unknown_precision_is_refused(checkpoint, dtype):
    with pytest.raises(UserError, match=f"dtype '{dtype}' does not exist"):
        open_checkpoint(checkpoint, dtype=dtype)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match="no weights or configuration"):
        open_checkpoint(tmp_path)
