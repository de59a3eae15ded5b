"""Event benchmarks: questions made of annotations, their words, features in place of videos, bad annotations."""

import json

import numpy as np
import pytest
from event_sets import EVENTS, QUESTIONS, Perfect, event_protocol, event_run, write_events
from qa_sets import records

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.omni_events import AnnotatedEvent, AnnotatedVideo, grounding_sentence
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.registry import BENCHMARKS

WORLD = BENCHMARKS["world_events"]


@pytest.fixture
def data(tmp_path):
    return write_events(tmp_path / "set")


def test_per_video_the_whole_comes_first_then_grounding_then_each_segment(data):
    questions = WORLD.load(data).questions
    assert [question.index for question in questions] == list(range(QUESTIONS))
    assert [question.id for question in questions][:8] == [
        "v1/captioning",
        *(f"v1/grounding/{number}" for number in range(3)),
        *(f"v1/seg_captioning/{number}" for number in range(3)),
        "v2/captioning",
    ]
    assert all(question.file == f"videos/{question.video}.mp4" for question in questions)


def test_references_are_readable_answers_of_the_form_asked_for(data):
    answers = {question.id: question.answer for question in WORLD.load(data).questions}
    assert answers["v1/captioning"].splitlines()[1] == "From 20 to 60, He talks to a woman while music plays."
    assert answers["v1/grounding/2"] == "From 55 to 99."
    assert answers["v2/seg_captioning/1"] == "A car stops."


@pytest.mark.parametrize("name", ["longvale_captioning", "longvale_grounding", "longvale_seg_captioning"])
def test_a_single_task_asks_the_same_as_all_of_them(tmp_path, name):
    data = write_events(tmp_path)
    (data / "annotations.json").rename(data / "longvale-annotations-eval.json")
    task = name.removeprefix("longvale_")
    everything = [question for question in BENCHMARKS["longvale"].load(data).questions if question.type == task]
    alone = BENCHMARKS[name].load(data).questions
    assert [question.id for question in alone] == [question.id for question in everything]
    assert [question.index for question in alone] == list(range(len(alone)))
    assert list(event_protocol(name).templates) == [task]


def test_a_list_of_objects_is_the_same_set_as_the_mapping(data, tmp_path):
    listed = write_events(tmp_path / "listed")
    (listed / "annotations.json").write_text(json.dumps([{"id": video, **event} for video, event in EVENTS.items()]))
    assert WORLD.load(listed).questions == WORLD.load(data).questions


def test_the_folder_above_and_the_file_itself_are_found(tmp_path):
    data = write_events(tmp_path / "eval" / "events")
    assert WORLD.load(tmp_path) == WORLD.load(data) == WORLD.load(data / "annotations.json")
    with pytest.raises(UserError, match=r"no annotations\.json here or in eval/events/"):
        WORLD.load(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("time", "duration", "percent"),
    [(0.5, 100, "00"), (1.5, 100, "02"), (2.5, 100, "02"), (100, 100, "99"), (10.4, 10, "99"), (0.3, 37.3, "01")],
)
def test_moments_are_two_digits_and_halves_go_to_even(time, duration, percent):
    assert AnnotatedVideo("v", duration, ()).percents(AnnotatedEvent(0, time, "x")) == ("00", percent)


def test_a_sentence_is_lowered_and_loses_one_full_stop():
    assert grounding_sentence(" Birds SING.. ") == "birds sing."


def test_braces_and_tags_of_templates_in_a_sentence_stay_as_they_are(tmp_path):
    sentence = "{start} {media} {question} {}"
    data = write_events(tmp_path / "set", {"v": {"duration": 10, "timestamps": [[0, 5]], "sentences": [sentence]}})
    engine = Perfect(WORLD.load(data).questions)
    event_run(data, tmp_path / "run", engine)
    assert f"can we find {sentence} taking place" in engine.asked[1].question
    assert "from 00 to 50 in the video" in engine.asked[2].question


def test_the_words_of_the_queries_are_part_of_the_protocol():
    protocol = event_protocol()
    changed = protocol.with_overrides({"templates": {"grounding": "{media}\nWhen does {question} happen?"}}, "test")
    assert changed.hash != protocol.hash
    assert changed.question_text("a dog barks", kind="grounding") == "<video>\nWhen does a dog barks happen?"
    with pytest.raises(UserError, match="test: templates: unknown protocol rule 'groundng'; did you mean 'grounding'"):
        protocol.with_overrides({"templates": {"groundng": "x"}}, "test")


def test_switching_sampling_on_samples_as_published():
    rules = event_protocol("longvale").generation
    assert (rules.do_sample, rules.max_new_tokens, rules.temperature) == (False, 1024, 0.05)


def feature_folder(folder, videos):
    folder.mkdir()
    for video in videos:
        np.save(folder / f"{video}.npy", np.zeros((2, 3), np.float32))
    return folder


def test_stored_features_stand_in_for_videos_and_a_video_without_visual_ones_is_missing(tmp_path):
    data = write_events(tmp_path / "set", missing=["v2"])
    folders = {
        "video": feature_folder(tmp_path / "visual", ["v1", "v2"]),
        "audio": feature_folder(tmp_path / "audio", ["v1", "v3"]),
    }
    engine = Perfect(WORLD.load(data).questions)
    summary = event_run(data, tmp_path / "run", engine, features=folders)
    assert (summary.answered, summary.missing, summary.complete) == (12, 3, True)
    media = {request.media[0].features: request.media[0].path for request in engine.asked}
    visual, audio = (str(folder.resolve()) for folder in folders.values())
    assert media == {
        (("video", f"{visual}/v1.npy"), ("audio", f"{audio}/v1.npy")): str(data / "videos" / "v1.mp4"),
        (("video", f"{visual}/v2.npy"),): "",
    }
    assert {line["reason"] for line in records(tmp_path / "run" / "missing.jsonl")} == {"no stored features"}
    assert RunFolder(tmp_path / "run").info.data.features == {"video": visual, "audio": audio}


def test_features_of_another_stream_do_not_stand_in_for_a_video_that_is_not_there(tmp_path):
    data = write_events(tmp_path / "set", missing=["v2"])
    engine = Perfect(WORLD.load(data).questions)
    features = {"audio": feature_folder(tmp_path / "audio", ["v1", "v2"])}
    summary = event_run(data, tmp_path / "run", engine, features=features)
    assert (summary.answered, summary.missing) == (10, 5)
    assert {len(request.media[0].features) for request in engine.asked if "v3" not in request.media[0].path} == {1}
    assert {line["reason"] for line in records(tmp_path / "run" / "missing.jsonl")} == {"no video file"}


def test_features_of_equal_content_may_lie_elsewhere_and_others_are_refused(tmp_path):
    data = write_events(tmp_path / "set")
    first, second = (feature_folder(tmp_path / name, EVENTS) for name in ("first", "second"))
    event_run(data, tmp_path / "run", features={"video": first}, limit=7)
    assert event_run(data, tmp_path / "run", features={"video": second}, limit=9).answered == 9
    np.save(second / "v1.npy", np.ones((2, 3), np.float32))
    with pytest.raises(UserError, match=r"second/v1.npy had another content when its questions were answered"):
        event_run(data, tmp_path / "run", features={"video": second})
    np.save(second / "v1.npy", np.zeros((2, 3), np.float32))
    assert event_run(data, tmp_path / "run", features={"video": second}, limit=9).complete
    audio = feature_folder(tmp_path / "audio", EVENTS)
    with pytest.raises(UserError, match=r"another run .features of video, not audio, video"):
        event_run(data, tmp_path / "run", features={"video": first, "audio": audio})
    (tmp_path / "run" / "files.jsonl").unlink()
    with pytest.raises(UserError, match=r"another run .features video from .*first, not video from .*second"):
        event_run(data, tmp_path / "run", features={"video": second})
    with pytest.raises(UserError, match="holds the results of another run"):
        event_run(data, tmp_path / "run")
    with pytest.raises(UserError, match=r"features of video: .*nowhere is no folder"):
        event_run(data, tmp_path / "run", features={"video": tmp_path / "nowhere"})


def changed(**values):
    return {"v1": EVENTS["v1"], "bad": {**EVENTS["v2"], **values}}


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (changed(timestamps=[[0, 3], [9, 5]]), "video 'bad': event 1: ends at 5 s, before it starts at 9 s"),
        (changed(timestamps=[[-1, 3], [9, 10]]), "video 'bad': event 0: starts at -1 s, before the video"),
        (changed(timestamps=[[0, 3], [9]]), r"video 'bad': event 1: timestamps are \[9\], expected \[start, end\]"),
        (changed(timestamps=[[0, 3], [9, float("nan")]]), "event 1: timestamps are"),
        (changed(timestamps=[[0, 3]]), "video 'bad': 'timestamps' and 'sentences' must be lists of the same length"),
        (changed(timestamps=[], sentences=[]), "video 'bad' has no event"),
        (changed(sentences=["a", " "]), "video 'bad': event 1: the sentence is empty"),
        (changed(sentences=["a", 7]), "video 'bad': event 1: the sentence is 7"),
        (changed(duration=0), "video 'bad': duration is 0, expected seconds above 0"),
        (changed(duration="long"), "video 'bad': duration is 'long'"),
        (changed(duration=10**299 * 10**5), "an integer of 305 digits"),
        (dict.fromkeys(("v" + chr(0xD800), "v" + chr(0xFFFD)), EVENTS["v1"]), "two keys of an object differ in half a"),
        ({"bad": {"duration": 3}}, "video 'bad' has no 'timestamps'"),
        ({"bad": [1]}, "video 'bad' is list, expected an object"),
        ({"../v1": EVENTS["v1"]}, "video '../v1' leaves the folder of the test set"),
        ([EVENTS["v1"]], "entry 0 has no 'id'"),
        ([{"id": "a", **EVENTS["v1"]}] * 2, "video 'a' stands there twice"),
        ({}, "holds no video"),
        ("text", "expected an object or a list of objects, found str"),
    ],
)
def test_annotations_that_make_no_sense_are_named_with_file_video_and_event(tmp_path, annotations, message):
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    with pytest.raises(UserError, match=rf"annotations\.json.*{message}"):
        WORLD.load(tmp_path)


def test_a_video_that_stands_twice_in_the_mapping_is_named(tmp_path):
    event = json.dumps(EVENTS["v1"])
    (tmp_path / "annotations.json").write_text(f'{{"v1": {event}, "v1": {event}}}')
    with pytest.raises(UserError, match=r"annotations\.json: not valid JSON .the key 'v1' stands twice"):
        WORLD.load(tmp_path)


def test_broken_json_is_named_with_its_place(tmp_path):
    (tmp_path / "annotations.json").write_text('{"v1": }')
    with pytest.raises(UserError, match=r"annotations\.json: line 1, column 8: not valid JSON"):
        WORLD.load(tmp_path)


@pytest.mark.parametrize("end", [10.2, 25])
def test_an_event_may_reach_past_the_end(tmp_path, end):
    data = write_events(tmp_path, {"v": {"duration": 10, "timestamps": [[5, end]], "sentences": ["It ends."]}})
    assert WORLD.load(data).questions[1].answer == "From 50 to 99."


def test_the_official_log_is_written_in_order_without_what_has_no_answer(data, tmp_path):
    event_run(data, tmp_path / "run", replies={"v1/grounding/0": "dunno"}, errors={"v2.mp4": "no frames"})
    log = records(tmp_path / "run" / "log.jsonl")
    assert [line["task"] for line in log if line["video_id"] == "v1"] == ["captioning"] + ["grounding"] * 3 + [
        "seg_captioning"
    ] * 3
    assert {line["video_id"] for line in log} == {"v1", "v3"}
    assert log[1] == {
        "video_id": "v1",
        "task": "grounding",
        "query_id": 0,
        "answer": "dunno",
        "info": {"sentence_id": 0, "iou": 0},
    }
    assert list(log[4]["info"]) == ["sentence_id"]
