"""Harness presets: prompts, frames and generation equal tables that were written from the harnesses' public sources."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from picture_sets import SHORT, mme, pope, textvqa
from tiny_models import tiny_model
from tiny_stage import tiny_processor

from vidtune.data.sample import Turn
from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.harnesses.known import HARNESSES, asked_benchmark, protocol_changes
from vidtune.evaluation.checkpoint import opened
from vidtune.evaluation.models.rules import protocol_by_frames
from vidtune.evaluation.protocol_of_checkpoint import protocol_for
from vidtune.media.preprocessing.frame_sampling import frame_indices
from vidtune.registry import BENCHMARKS, SYSTEMS

TABLES = {
    name: json.loads((Path(__file__).parent / "harness_tables" / file).read_text(encoding="utf-8"))
    for name, file in (("lmms-eval", "lmms_eval.json"), ("vlmevalkit", "vlmevalkit.json"))
}
ROWS = [(name, row) for name, table in TABLES.items() for row in table["rows"]]
IDS = [f"{name}-{row['benchmark']}" for name, row in ROWS]


def asked(name, row, kind=None):
    """The protocol of a row, and the user turn of its question."""
    overrides = {"harness": name}
    benchmark = asked_benchmark(row["benchmark"], overrides)
    protocol = benchmark.protocol(prompt_format="")
    for source, changes in protocol_changes(benchmark, kind, overrides):
        protocol = protocol.with_overrides(changes, source)
    text = protocol.question_text(row["question"], None, None, row.get("fields"), row.get("options", ()))
    return protocol, text


@pytest.mark.parametrize(("name", "row"), ROWS, ids=IDS)
def test_a_task_asks_what_the_harness_asks(name, row):
    protocol, text = asked(name, row)
    assert text == f"<{protocol.stream}>\n{row['text']}"
    assert protocol.benchmark == row.get("record", row["benchmark"])
    generation = protocol.generation.model_dump()
    assert {key: generation[key] for key in row["generation"]} == row["generation"]
    assert protocol.harness["version"] == TABLES[name]["version"]
    assert all(source in protocol.harness["task"] for source in row["sources"])
    assert "model" not in protocol.harness


@pytest.mark.parametrize(("name", "row"), ROWS, ids=IDS)
def test_a_wrapper_hands_the_question_over_as_the_harness_does(name, row):
    table = TABLES[name]["video_llava"]
    if BENCHMARKS[row["benchmark"]].protocol(prompt_format="").stream == "image":
        with pytest.raises(UserError, match="hands video_llava no image"):
            asked(name, row, "video_llava")
        return
    protocol, text = asked(name, row, "video_llava")
    prompt = SYSTEMS["video_llava"].dialect.prompts[protocol.prompt_format]
    written = "".join(piece.text for piece in prompt.render([Turn("user", text)], open_answer=True))
    if "video_llava" in row:
        assert written == row["video_llava"]
    else:
        assert written.endswith(f"USER: <video>\n{row['text']} ASSISTANT:") and written.startswith("A chat between")
    assert table["source"] in protocol.harness["model"]
    assert {key: protocol.preprocessing[key] for key in table["preprocessing"]} == table["preprocessing"]
    assert protocol.towers == table["towers"]
    expected = row.get("video_llava_generation", row["generation"])
    assert {key: protocol.generation.model_dump()[key] for key in expected} == expected
    for total, frames in table["frames"].items():
        count = min(int(total), protocol.preprocessing["num_frames"])
        assert frame_indices(protocol.preprocessing["sampling"], int(total), count) == frames


def test_frames_are_taken_where_the_harness_takes_them():
    for rule, clips in TABLES["vlmevalkit"]["frames"].items():
        for total, frames in clips.items():
            assert frame_indices(rule, int(total), 8) == frames
    flash = TABLES["lmms-eval"]["videochat_flash"]
    protocol, _ = asked("lmms-eval", TABLES["lmms-eval"]["rows"][0], "videochat_flash")
    assert protocol.preprocessing == flash["preprocessing"] and flash["source"] in protocol.harness["model"]


def test_models_that_are_shown_frames_get_those_of_the_task():
    for row in TABLES["vlmevalkit"]["rows"][:2]:
        changes = {"harness": "vlmevalkit"}
        benchmark = BENCHMARKS[row["benchmark"]]
        protocol, _ = protocol_by_frames(benchmark, "chat", {"given": "images"}, "transformers:x", overrides=changes)
        assert {key: protocol.preprocessing[key] for key in row["frames"]} == row["frames"]
        assert protocol.run_name == f"{row['benchmark']}-vlmevalkit"


def shown(harness, kind, benchmark, **named):
    """The protocol of a model that is shown frames, as a harness asks it."""
    changes = {"harness": harness, **named}
    record = asked_benchmark(benchmark, changes)
    return protocol_by_frames(record, "chat", {"given": "video"}, kind, overrides=changes)


SHOWN = [(name, kind) for name, table in TABLES.items() for kind in table["shown_frames"]]
UNLIKE = [(name, kind) for name, table in TABLES.items() for kind in table["unlike"]]


@pytest.mark.parametrize(("name", "kind"), SHOWN)
def test_a_model_of_transformers_or_an_endpoint_gets_the_frames_of_its_wrapper(name, kind):
    table = TABLES[name]["shown_frames"][kind]
    for benchmark in ("activitynet_qa", "mvbench"):
        protocol, rule = shown(name, kind, benchmark)
        count = rule.of_stream("video", blind=False).count
        assert rule.given == table["given"] and table["source"] in protocol.harness["model"]
        for total, frames in table["frames"].items():
            assert frame_indices(rule.sampling, int(total), count) == frames
    protocol, _ = shown(name, kind, "textvqa")
    assert protocol.generation.max_new_tokens == table["textvqa_tokens"]


@pytest.mark.parametrize(("name", "kind"), UNLIKE)
def test_frames_that_cannot_be_those_of_the_harness_are_refused_unless_they_are_named(name, kind):
    reason = TABLES[name]["unlike"][kind]
    with pytest.raises(UserError, match=rf"mvbench\S*: {name}: .*{reason}.*preprocessing\.num_frames=32"):
        shown(name, kind, "mvbench")
    protocol, rule = shown(name, kind, "mvbench", preprocessing={"num_frames": 12})
    assert rule.num_frames == 12 and reason in protocol.harness["note"]
    assert "those that the command names" in protocol.harness["note"]
    assert shown(name, kind, "mvbench", reading={"frames": 12})[0].reading.frames == 12
    with pytest.raises(UserError, match=reason):
        shown(name, kind, "mvbench", preprocessing={"max_side": 64})


def test_a_wrapper_with_prompts_of_its_own_is_refused_for_pictures_too():
    with pytest.raises(UserError, match=r"pope: vlmevalkit: .*prompts of its own.*; ask it without the harness"):
        shown("vlmevalkit", "transformers:smolvlm", "pope")


@pytest.mark.parametrize("name", TABLES)
def test_what_a_harness_does_not_ask_is_refused(name):
    for benchmark in TABLES[name]["missing"]:
        with pytest.raises(UserError, match=rf"{benchmark}: {name} .* has no such task"):
            asked_benchmark(benchmark, {"harness": name})
    tasks = {row["benchmark"] for row in TABLES[name]["rows"]}
    assert tasks <= set(HARNESSES[name].tasks)


def test_an_unknown_harness_is_named():
    with pytest.raises(UserError, match=r"harness: 'lmms_eval' is not known.*lmms-eval"):
        asked_benchmark("pope", {"harness": "lmms_eval"})


def test_pictures_bring_the_question_without_instructions(tmp_path):
    sets = {
        "pope": (pope(tmp_path / "pope", {"random": ["yes"]}), {"bare": "Is there a thing0 in the image?"}),
        "mme": (
            mme(tmp_path / "mme", {"existence": ["a.jpg"]}),
            {"bare": "Is it a in a.jpg?", "released": "Is it a in a.jpg? Please answer yes or no."},
        ),
        "textvqa": (
            textvqa(
                tmp_path / "textvqa",
                [{"image_id": "x", "question": "What is IT?", "answers": ["a"] * 10}],
                [("x", f"What is IT?\nReference OCR token: A\n{SHORT}")],
            ),
            {"bare": "What is IT?"},
        ),
    }
    for name, (folder, fields) in sets.items():
        assert BENCHMARKS[name].load(folder).questions[0].fields == fields


def test_the_user_s_rules_come_after_those_of_the_harness():
    loaded = opened(SimpleNamespace(model=tiny_model(), processor=tiny_processor()))
    changes = {"harness": "lmms-eval", "generation": {"max_new_tokens": 5}, "preprocessing": {"num_frames": 4}}
    protocol = protocol_for(loaded, BENCHMARKS["activitynet_qa"], overrides=changes)
    assert (protocol.generation.max_new_tokens, protocol.preprocessing["num_frames"]) == (5, 4)
    assert protocol.preprocessing["short_clips"] == "zeros" and protocol.prompt_format == "user_assistant"
    assert protocol.generation.stop == ("</s>",)
    plain = protocol_for(loaded, BENCHMARKS["activitynet_qa"])
    assert "harness" not in plain.model_dump() and plain.hash != protocol.hash
