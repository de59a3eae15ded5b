"""A real checkpoint, real videos, the real engine: protocol, blind runs, broken files, resuming."""

from dataclasses import replace

import numpy as np
import pytest
from event_sets import write_events
from picture_sets import pope
from PIL import Image
from qa_sets import quiet_predict, records, write_set, write_video
from tiny_checkpoint import write_checkpoint

from vidtune.errors import UserError
from vidtune.evaluation.asking.shared_videos import Session
from vidtune.evaluation.benchmarks.video_qa import VideoQA
from vidtune.evaluation.checkpoint import AnsweringOptions, engine_for, open_checkpoint
from vidtune.evaluation.predict import Variant, predict_benchmark
from vidtune.evaluation.protocol_of_checkpoint import condensing_of, protocol_for
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.scores.scoring import score_run
from vidtune.models.connectors.mlp import MlpConnectorConfig
from vidtune.models.connectors.token_merging import TokenMergingConfig
from vidtune.processing.prompts.format import Placement
from vidtune.registry import BENCHMARKS, SYSTEMS

SHORT = {"generation": {"max_new_tokens": 4}}


def predict_quickly(checkpoint, benchmark, data, out, **given):
    """A few tokens per answer, videos decoded in this process."""
    variant, answering = Variant(overrides=SHORT, **given), AnsweringOptions(workers=0)
    return predict_benchmark(checkpoint, benchmark, data, out, variant, answering, Session(progress=False))


ENTRIES = [("red", "what?", "x"), ("blue", "what?", "x"), ("red", "who?", "y"), ("broken", "what?", "z")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_set(tmp_path_factory.mktemp("data") / "set", ENTRIES, types=["a", "b", "a", "b"])
    write_video(folder / "videos" / "red.mp4", (200, 20, 20))
    write_video(folder / "videos" / "blue.mp4", (20, 20, 200))
    return folder


def test_a_checkpoint_answers_and_the_unreadable_video_is_named(checkpoint, data, tmp_path):
    summary = predict_quickly(checkpoint, "world_qa", data, tmp_path)
    assert (summary.answered, summary.errors, summary.complete) == (3, 1, True)
    run = RunFolder(tmp_path / "world_qa")
    [failed] = [prediction for prediction in run.predictions() if prediction.error]
    assert "broken.mp4" in failed.error
    assert run.info.system == "video_llava" and run.info.recipe == "system: video_llava\n"
    assert run.info.protocol.preprocessing["num_frames"] == 2
    assert run.info.protocol.generation.stop
    again = predict_quickly(checkpoint, "world_qa", data, tmp_path)
    assert again.asked_now == 0


def test_a_checkpoint_answers_about_pictures(checkpoint, tmp_path):
    data = pope(tmp_path / "pope", {"random": ["yes", "no", "no"]})
    for place, colour in enumerate([(200, 20, 20), (20, 20, 200)]):
        Image.new("RGB", (60, 40), colour).save(data / "val2014" / f"i{place}.jpg")
    summary = predict_quickly(checkpoint, "pope", tmp_path, tmp_path / "out")
    assert (summary.answered, summary.errors) == (2, 1)
    run = RunFolder(summary.run_dir)
    assert (run.info.protocol.stream, run.info.protocol.preprocessing["kind"]) == ("image", "image")
    assert run.info.protocol.question_template == "{media}\n{question}"
    assert run.info.protocol.prompt_format == "vicuna_v1" and run.info.protocol.preprocessing["pad_to_square"]
    [failed] = [prediction for prediction in run.predictions() if prediction.error]
    assert "i2.jpg" in failed.error
    official = records(run.path / "merge.jsonl")
    assert [(one["question_id"], one["prompt"].split()[-1]) for one in official] == [(0, "phrase."), (1, "phrase.")]
    score = score_run(run.path, progress=False)
    assert score.value("accuracy", "random").strict.value <= 200 / 3
    assert {one.name for one in score.group().values} >= {"F1", "mean F1", "yes ratio"}


def test_a_blind_run_sees_no_difference_between_videos(checkpoint, data, tmp_path):
    loaded = open_checkpoint(checkpoint)
    seeing = predict_quickly(loaded, "world_qa", data, tmp_path).run_dir
    blind = predict_quickly(loaded, "world_qa", data, tmp_path, blind=True).run_dir
    assert blind == tmp_path / "world_qa-blind"
    answers = {
        run: {record["id"]: record["pred"] for record in records(run / "predictions.jsonl") if "error" not in record}
        for run in (seeing, blind)
    }
    assert answers[blind]["red_0"] == answers[blind]["blue_1"]
    assert answers[seeing]["red_0"] != answers[seeing]["blue_1"]
    assert RunFolder(seeing).info.protocol_hash != RunFolder(blind).info.protocol_hash


class AsksAboutImages(VideoQA):
    """World-QA, with a stream for further media of its questions."""

    asked = "image"

    def protocol(self, **given):
        return super().protocol(**given).model_copy(update={"question_media": {self.asked: {}}})


def test_streams_of_further_media_are_in_the_protocol(checkpoint, monkeypatch):
    loaded = open_checkpoint(checkpoint)
    known = BENCHMARKS["world_qa"]
    benchmark = AsksAboutImages(known.name, known.title, known.folder, known.lookup, known.source)
    protocol = protocol_for(loaded, benchmark)
    assert protocol.question_media["image"]["size"] == protocol.preprocessing["size"]
    assert protocol.hash != protocol_for(loaded, known).hash
    assert "question_media" not in protocol_for(loaded, known).model_dump()
    assert protocol_for(loaded, benchmark, without=["image"]).run_name == "world_qa-without-image"
    changed = protocol_for(loaded, benchmark, overrides={"question_media": {"image": {"pad_to_square": True}}})
    assert changed.question_media["image"]["pad_to_square"] and changed.hash != protocol.hash
    monkeypatch.setattr(AsksAboutImages, "asked", "region")
    with pytest.raises(UserError, match="needs the stream 'region'; this checkpoint has: image, video"):
        protocol_for(loaded, benchmark)


def test_system_overrides_come_before_those_of_the_caller(checkpoint):
    loaded = open_checkpoint(checkpoint)
    benchmark = BENCHMARKS["world_qa"]
    plain = protocol_for(loaded, benchmark)
    assert plain.prompt_format == loaded.system.dialect.answering_prompt
    own = {"video_llava": {"generation": {"max_new_tokens": 7}, "version": 3}, "video_panda": {"version": 5}}
    particular = replace(benchmark, system_rules=own)
    assert protocol_for(loaded, particular).generation.max_new_tokens == 7
    changed = protocol_for(loaded, particular, overrides={"generation": {"max_new_tokens": 9}})
    assert (changed.generation.max_new_tokens, changed.version) == (9, 3)
    assert changed.generation.stop == plain.generation.stop


def test_the_question_stands_where_the_prompt_format_puts_it(checkpoint, monkeypatch):
    loaded = open_checkpoint(checkpoint)
    plain = protocol_for(loaded, BENCHMARKS["world_qa"])
    dialect = loaded.system.dialect
    after = {name: replace(prompt, question="{question}\n{media}") for name, prompt in dialect.prompts.items()}
    monkeypatch.setitem(
        SYSTEMS.loaded, loaded.system.name, replace(loaded.system, dialect=replace(dialect, prompts=after))
    )
    protocol = protocol_for(loaded, BENCHMARKS["world_qa"])
    assert protocol.question_text("Who?") == "Who?\n<video>"
    assert protocol.hash != plain.hash
    placed = {name: replace(one, placements=(Placement("video", ("{tag}{question}",)),)) for name, one in after.items()}
    dialect = replace(dialect, prompts=placed)
    monkeypatch.setitem(SYSTEMS.loaded, loaded.system.name, replace(loaded.system, dialect=dialect))
    assert protocol_for(loaded, BENCHMARKS["world_qa"]).question_text("Who?") == "<video>Who?"
    said = {"question_template": "{media}\n{question}"}
    assert protocol_for(loaded, BENCHMARKS["world_qa"], overrides=said).hash == plain.hash


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"preprocessing": {"interpolation": "magic"}}, "interpolation"),
        ({"prompt_format": "llava_v9"}, "has no prompt format 'llava_v9'"),
        ({"stream": "audio"}, "needs the stream 'audio'"),
        ({"condensing": {"video": {"dtype": "float32"}}}, "condensing is as the checkpoint says"),
        ({"choices": {"answering": "letters"}}, "questions of world_qa have no options to choose from"),
    ],
)
def test_rules_that_the_checkpoint_cannot_follow_are_refused(checkpoint, overrides, message):
    with pytest.raises(UserError, match=message):
        protocol_for(open_checkpoint(checkpoint), BENCHMARKS["world_qa"], overrides=overrides)


class Merging:
    """Config of streams that condense in the dtype of their name, but ``audio`` does not."""

    def connector_of(self, stream):
        if stream == "audio":
            return MlpConnectorConfig(input_size=8, output_size=8)
        return TokenMergingConfig(input_size=32, output_size=8, group_tokens=8, tokens=4, dtype=stream)


def test_the_protocol_holds_how_features_are_condensed_and_in_which_dtype():
    sizes = {"group_tokens": 8, "tokens": 4, "heads": 16, "tiled": False}
    config = Merging()
    assert condensing_of(config, ["float32", "audio"], "float16") == {"float32": {**sizes, "dtype": "float32"}}
    config.connector_of = lambda stream: TokenMergingConfig(input_size=32, output_size=8, group_tokens=8, tokens=4)
    assert condensing_of(config, ["video"], "float16") == {"video": {**sizes, "dtype": "float16"}}


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """Two videos of three events each."""
    spans, sentences = [[0, 0.4], [0.3, 0.7], [0.5, 1]], ["It starts.", "It moves.", "It stops."]
    annotated = {"duration": 1.0, "timestamps": spans, "sentences": sentences}
    folder = write_events(tmp_path_factory.mktemp("events"), {"red": annotated, "blue": annotated})
    write_video(folder / "videos" / "red.mp4", (200, 20, 20))
    write_video(folder / "videos" / "blue.mp4", (20, 20, 200))
    return folder


def test_all_tasks_of_a_video_share_its_decoding_encoding_and_prefill(checkpoint, events, tmp_path):
    loaded, benchmark = open_checkpoint(checkpoint), BENCHMARKS["world_events"]
    rules = {"generation": {"max_new_tokens": 4}}
    answers = {}
    for shared in (True, False):
        protocol = protocol_for(loaded, benchmark, overrides=rules)
        options = {"workers": 0, "share_prefix": shared, "max_batch_questions": 3}
        with engine_for(loaded, protocol, AnsweringOptions(**options)) as engine:
            run = tmp_path / str(shared)
            quiet_predict(engine, benchmark.load(events), protocol, run, checkpoint=loaded.identity)
            counted = engine.stats
        assert counted.questions == 2 * (1 + 3 + 3)
        expected = 2 if shared else 14
        assert (counted.media_loaded, counted.encodings, counted.prefills) == (expected, expected, expected)
        answers[shared] = [prediction.pred for prediction in RunFolder(run).predictions()]
    assert answers[True] == answers[False]
    assert len(set(answers[True])) > 2


def test_a_run_without_a_stream_does_not_see_it_and_is_named_after_it(checkpoint, events, tmp_path):
    loaded = open_checkpoint(checkpoint)
    seeing = predict_quickly(loaded, "world_events", events, tmp_path).run_dir
    without = predict_quickly(loaded, "world_events", events, tmp_path, without=["video"]).run_dir
    assert without == tmp_path / "world_events-without-video"
    one, other = (RunFolder(run).info for run in (seeing, without))
    assert other.protocol.without == ("video",) and other.protocol_hash != one.protocol_hash
    answers = {
        run: {line["id"]: line["pred"] for line in records(run / "predictions.jsonl")} for run in (seeing, without)
    }
    same = [name for name in answers[seeing] if name.startswith("red")]
    assert all(answers[without][name] == answers[without][name.replace("red", "blue")] for name in same)
    assert any(answers[seeing][name] != answers[seeing][name.replace("red", "blue")] for name in same)
    assert score_run(without).without == ("video",)


def accompanied(loaded):
    """The checkpoint as if its system read every video through two streams."""
    dialect = replace(loaded.system.dialect, companions={"video": ("image",)})
    return replace(loaded, system=replace(loaded.system, dialect=dialect))


def test_all_streams_of_a_file_are_in_the_protocol_and_blind_together(checkpoint):
    loaded, benchmark = accompanied(open_checkpoint(checkpoint)), BENCHMARKS["world_events"]
    protocol = protocol_for(loaded, benchmark, blind=True, overrides={"companions": {"image": {"pad_to_square": True}}})
    assert protocol.companions["image"]["pad_to_square"] and "blind" not in protocol.companions["image"]
    with engine_for(loaded, protocol, AnsweringOptions(workers=0)) as engine:
        streams = engine.processor.preprocessing
    assert streams["video"].blind and streams["image"].blind and streams["image"].pad_to_square
    plain = protocol_for(loaded, benchmark, without=["image", "video", "image"])
    assert plain.without == ("video", "image")
    assert plain.run_name == "world_events-without-video-image"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"without": ["adio"]}, "this checkpoint has no stream 'adio'; did you mean 'video'|known: image, video"),
        ({"without": ["image"]}, "the stream 'image' cannot be switched off: its videos are read by video"),
        ({"features": {"image": "."}}, "the stream 'image' cannot be read from stored features"),
        ({"features": {"video": "nowhere"}}, "features of video: .*nowhere is no folder"),
        ({"features": {"video": "."}, "blind": True}, "cannot be made black or silent.*--without video"),
    ],
)
def test_streams_that_cannot_be_switched_off_or_replaced_are_refused(checkpoint, events, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        predict_quickly(open_checkpoint(checkpoint), "world_events", events, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_stored_features_are_answered_from_and_a_wrong_one_is_named(checkpoint, events, tmp_path):
    loaded = open_checkpoint(checkpoint)
    settings = loaded.checkpoint.processor.streams["video"]
    folder = tmp_path / "visual"
    folder.mkdir()
    shape = (settings.num_tokens, settings.feature_size)
    np.save(folder / "red.npy", np.random.default_rng(0).normal(size=shape).astype(np.float32))
    np.save(folder / "blue.npy", np.zeros((3, 5), np.float32))
    out = {"features": {"video": folder}}
    summary = predict_quickly(loaded, "world_events", events, tmp_path / "out", **out)
    assert (summary.answered, summary.errors, summary.missing) == (7, 7, 0)
    assert RunFolder(summary.run_dir).info.protocol.features == ("video",)
    failed = [prediction.error for prediction in RunFolder(summary.run_dir).predictions() if prediction.error]
    assert all("blue.npy" in error and "width 5" in error for error in failed)


@pytest.mark.parametrize("dtype", ["float99", "nn"])
def test_an_unknown_precision_is_refused(checkpoint, dtype):
    with pytest.raises(UserError, match=f"unknown dtype '{dtype}'"):
        open_checkpoint(checkpoint, dtype=dtype)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match="no weights or configuration"):
        open_checkpoint(tmp_path)


def test_a_layer_program_is_a_rule_of_the_protocol(checkpoint, data, tmp_path):
    loaded, benchmark = open_checkpoint(checkpoint), BENCHMARKS["world_qa"]
    plain = protocol_for(loaded, benchmark)
    assert "layer_program" not in plain.model_dump()
    assert protocol_for(loaded, benchmark, overrides={"layer_program": []}).hash == plain.hash
    step = {"after": 1, "drop": ["video"], "keep": 0.25, "rule": "attention"}
    given = {"layer_program": [step]}
    dropping = protocol_for(loaded, benchmark, overrides=given)
    assert dropping.layer_program == (step,) and dropping.hash != plain.hash
    again = {"layer_program": [{**step, "after": [1], "drop": "video", "compact": False}]}
    assert protocol_for(loaded, benchmark, overrides=again).hash == dropping.hash
    with engine_for(loaded, dropping, AnsweringOptions(workers=0)) as engine:
        assert engine.program.steps == [step] and not loaded.checkpoint.model.program
    loaded.checkpoint.model.use_layer_program([step])
    assert protocol_for(loaded, benchmark).hash == dropping.hash
    assert protocol_for(loaded, benchmark, overrides={"layer_program": []}).hash == plain.hash
    wrong = {"layer_program": [{**step, "rule": "atention"}]}
    with pytest.raises(UserError, match=r"layer_program\[0\]: unknown drop rule 'atention'; known: uniform, attention"):
        protocol_for(loaded, benchmark, overrides=wrong)
