"""Benchmarks of moments in seconds: forms of the test set, words of the question, official and strict values."""

import json

import pytest
from event_sets import Perfect, event_protocol, event_run
from synthetic_clips import write_clip
from tiny_checkpoint import always_say, write_checkpoint

from vidtune.cli.main import run as run_command
from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.temporal_grounding.reading import first_pair, first_pair_of_sentences
from vidtune.evaluation.scores.scoring import score_run
from vidtune.registry import BENCHMARKS

CHARADES = BENCHMARKS["charades_sta"]
ENTRIES = [
    {"video": "a.mp4", "caption": "person sits down.", "timestamp": [2.0, 6.0]},
    {"video": "b.mp4", "caption": "person runs", "timestamp": [0, 5]},
    {"video": "a.mp4", "caption": "person sits down.", "timestamp": [2.0, 6.0]},
    {"video": "c.mp4", "caption": "person eats", "timestamp": [1.5, 4.5]},
]


def write(folder, entries=ENTRIES, name="charades_sta_test.json", missing=("c.mp4",)):
    (folder / "Charades_v1_480").mkdir(parents=True)
    for video in {entry["video"] for entry in entries} - set(missing):
        (folder / "Charades_v1_480" / video).touch()
    lines = [json.dumps(entry) for entry in entries]
    (folder / name).write_text("\n".join(lines) if name.endswith("jsonl") else f"[{','.join(lines)}]")
    return folder


def test_all_forms_of_the_set_hold_the_same_questions(tmp_path):
    entries = [{**one, "timestamp": [float(time) for time in one["timestamp"]]} for one in ENTRIES]
    listed = CHARADES.load(write(tmp_path / "a" / "Charades", entries).parent)
    lines = CHARADES.load(write(tmp_path / "b", entries, "charades_sta_test.jsonl"))
    text = write(tmp_path / "c", entries)
    (text / "charades_sta_test.json").unlink()
    written = ("{} {} {}##{}".format(one["video"][:-4], *one["timestamp"], one["caption"]) for one in entries)
    (text / "charades_sta_test.txt").write_text("\n".join(written))
    assert listed.questions == lines.questions == CHARADES.load(text).questions
    assert [one.file for one in listed.questions][:2] == ["Charades_v1_480/a.mp4", "Charades_v1_480/b.mp4"]
    assert listed.questions[3].missing


def test_equal_questions_count_once_officially_and_each_strictly(tmp_path):
    replies = {"0": "from 2 to 6", "1": "0 - 10", "2": "no idea"}
    data = write(tmp_path / "set")
    score = score_run(event_run(data, tmp_path / "run", name="charades_sta", replies=replies).run_dir, progress=False)
    miou, half = (score.value(name, "grounding") for name in ("mIoU", "R1@0.5"))
    assert miou.official.value == pytest.approx(100 * (0.5 + 0) / 2)  # the last of the two equal questions
    assert miou.strict.value == pytest.approx(100 * (1 + 0.5 + 0 + 0) / 4)
    assert (half.official.value, half.strict.value) == (50, 50)
    assert score.identity == {"reading": "first_pair"}


def test_the_question_stands_in_the_question_template_of_the_system(tmp_path):
    questions = CHARADES.load(write(tmp_path / "set"))
    engine = Perfect(questions.questions)
    protocol = event_protocol("charades_sta", question_template="<vid_start>{media}<vid_end>\n{question}")
    event_run(tmp_path / "set", tmp_path / "run", engine, "charades_sta", protocol=protocol)
    asked = engine.asked[0].question
    assert asked.startswith("<vid_start><video><vid_end>\nPlease find the visual event")
    assert asked.endswith("sentence: person sits down.. Please return its start time and end time.")


def test_a_command_scores_rendered_videos(tmp_path):
    times = {"a.mp4": ([1.0, 9.0], [5.0, 13.0]), "half.mp4": ([1.0, 9.0],), "c.mp4": ([1.0, 9.0],)}
    entries = [{"video": name, "caption": "x", "timestamp": one} for name, several in times.items() for one in several]
    videos = write(tmp_path / "set", entries) / "Charades_v1_480"
    whole = write_clip(videos / "a.mp4").read_bytes()
    (videos / "half.mp4").write_bytes(whole[: len(whole) // 2])
    folder = always_say(write_checkpoint(tmp_path / "model"), "1-9", after=":")
    (folder / "recipe.yaml").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 1024
    (folder / "config.json").write_text(json.dumps(config))
    asked = ["evaluate", str(folder), "--benchmark", "charades_sta", "--data", str(tmp_path / "set"), "--workers", "0"]
    assert run_command([*asked, "--out", str(tmp_path / "out")]) == 0
    score = score_run(tmp_path / "out" / "charades_sta", progress=False)
    values = {name: score.value(name, "grounding") for name in ("mIoU", "R1@0.3", "R1@0.5")}
    official = {name: one.official.value for name, one in values.items()}
    assert official == {"mIoU": pytest.approx(100 * (1 + 1 / 3) / 2), "R1@0.3": 100, "R1@0.5": 50}
    strict = {name: one.strict.value for name, one in values.items()}
    assert strict == {"mIoU": pytest.approx(100 * (1 + 1 / 3) / 4), "R1@0.3": 50, "R1@0.5": 25}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"timestamp": [6, 2]}, r"entry 0: 'timestamp' is \[6, 2\], expected \[start, end\] in seconds"),
        ({"timestamp": [-1, 2]}, r"entry 0: 'timestamp' is \[-1, 2\]"),
        ({"timestamp": "1-2"}, r"entry 0: 'timestamp' is str, expected list"),
        ({"caption": " "}, "entry 0: 'caption' is empty"),
        ({"video": "../a.mp4"}, "leaves the folder"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, entry, message):
    with pytest.raises(UserError, match=message):
        CHARADES.load(write(tmp_path / "set", [{**ENTRIES[0], **entry}], missing=[entry.get("video")]))


def test_a_wrong_line_is_named(tmp_path):
    data = write(tmp_path, name="charades_sta_test.jsonl")
    path = data / "charades_sta_test.jsonl"
    path.write_text(path.read_text() + "\n{'video'}")
    with pytest.raises(UserError, match=r"test\.jsonl: line 5, column 2: not valid JSON"):
        CHARADES.load(path)
    text = data / "charades_sta_test.txt"
    text.write_text("a 1 2##x\na 1##x")
    with pytest.raises(UserError, match=r"test\.txt: line 2: expected 'VIDEO START END##SENTENCE', found 'a 1##x'"):
        CHARADES.load(text)


@pytest.mark.parametrize(
    ("answer", "fork", "lmms_eval"),
    [
        ("It is at 00:10 - 00:20.", (10, 0), (10, 20)),
        ("2 and 3! then at 5 to 9", (5, 9), (5, 9)),
        ("Nothing at 5 - 6. It starts at 8.0\nand ends at 9", (5, 6), (5, 6)),
        ("5 - 6\nIt starts at 8.0\nand ends at 9", (5, 6), (8, 9)),
    ],
)
def test_the_two_rules_differ_where_they_should(answer, fork, lmms_eval):
    assert first_pair(answer) == tuple(sorted(fork))
    assert first_pair_of_sentences(answer) == lmms_eval
