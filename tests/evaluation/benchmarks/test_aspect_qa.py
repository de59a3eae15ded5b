"""Open questions judged for five aspects: what is read, asked, stored, scored and shown."""

import json

import pytest
from qa_sets import StubEngine, quiet_predict

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.check import check_test_set
from vidtune.evaluation.report.page import build_report
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.scores.score_file import read_current_score
from vidtune.evaluation.scores.scoring import score_run
from vidtune.registry import BENCHMARKS

GENERIC = [{"video_name": "a", "Q": "question 0?", "A": "answer 0"}, {"video_name": "b", "Q": "question 1?", "A": "no"}]
TEMPORAL = [{"video_name": "b", "Q": "question 2?", "A": "answer 2"}]
PAIRS = [{"video_name": "a", "Q1": "question 3?", "Q2": "question 4?", "A": "answer 3"}]
ASPECTS = ["correctness", "detail", "context", "temporal", "consistency"]


def write(folder, **lists):
    (folder / "Benchmarking_QA").mkdir(parents=True, exist_ok=True)
    (folder / "Test_Videos").mkdir(exist_ok=True)
    for name, entries in ({"generic": GENERIC, "temporal": TEMPORAL, "consistency": PAIRS} | lists).items():
        (folder / "Benchmarking_QA" / f"{name}_qa.json").write_text(json.dumps(entries))
    for name in ("a", "b"):
        (folder / "Test_Videos" / f"{name}.mp4").touch()
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with the answer "answer n" to "question n?", and the engine that was asked."""
    folder = tmp_path_factory.mktemp("aspects")
    benchmark = BENCHMARKS["video_chatgpt"]
    questions = benchmark.load(write(folder / "set"))
    protocol = benchmark.protocol(prompt_format="llava_v1", stop=("</s>",))
    engine = StubEngine()
    quiet_predict(engine, questions, protocol, folder / "run")
    return RunFolder(folder / "run"), engine


@pytest.mark.parametrize("place", ["", "set", "set/Benchmarking_QA"])
def test_the_set_is_found_in_its_folder_and_near_it(tmp_path, place):
    write(tmp_path / "set" if place != "" else tmp_path / "Video_5_Benchmark")
    assert len(BENCHMARKS["video_chatgpt"].load(tmp_path / place).questions) == 8


def test_generic_questions_are_asked_once_and_pairs_one_by_one(run):
    assert sorted(run[1].questions) == [f"question {n}?" for n in range(5)]
    predictions = run[0].predictions()
    assert [one.type for one in predictions] == [*(kind for kind in ASPECTS[:3] for _ in range(2)), *ASPECTS[3:]]
    assert [one.id for one in predictions[:3]] == ["correctness/a_0", "correctness/b_0", "detail/a_0"]
    assert {one.pred for one in predictions if one.id.endswith("/a_0")} == {"answer 0", "answer 3"}


def test_answers_are_written_as_the_published_scripts_do(run):
    written = {path.name: json.loads(path.read_text()) for path in run[0].path.glob("*_qa.json")}
    assert sorted(written) == sorted(
        f"{name}_qa.json" for name in ("correctness", "detail", "contextual", "temporal", "consistency")
    )
    assert written["contextual_qa.json"] == written["correctness_qa.json"]
    assert written["correctness_qa.json"][0] == {**GENERIC[0], "pred": "answer 0"}
    assert written["consistency_qa.json"] == [{**PAIRS[0], "pred1": "answer 3", "pred2": "answer 4"}]


def test_each_aspect_has_its_average_which_stays_when_it_is_stored(run, tmp_path):
    score = score_run(run[0].path, progress=False)
    points = {kind: score.value("average_score", kind).official.value for kind in ASPECTS}
    # Of the pair the worse answer counts; "answer 1" shares no word with "no".
    assert points == {"correctness": 2.5, "detail": 2.5, "context": 2.5, "temporal": 5.0, "consistency": 1.0}
    assert score.overall is None and score.accuracy is None and score.coverage == 1
    again = read_current_score(run[0], "rules-v1")
    assert str(again) == str(score) and [group.type for group in again.groups] == ASPECTS
    assert "  temporal: 1 of 1 answered, 1 videos\n    average_score 5.00" in str(score)
    page = build_report([run[0].path], tmp_path / "report.html").read_text()
    assert "<th>temporal</th>" in page and "average score, 0–5" in page


def test_a_clean_set_has_nothing_odd(tmp_path):
    def odd(**lists):
        found = check_test_set(BENCHMARKS["video_chatgpt"], write(tmp_path / "set", **lists), {}).odd
        return {one.what for one in found}

    assert odd() == set()
    assert odd(generic=[{**GENERIC[0], "video_name": "a/b"}]) == {"ids with blanks at an end, or '/'"}


def test_mistakes_in_a_list_are_named(tmp_path):
    for changes, message in (
        ({"temporal": [{"video_name": "a", "Q": "what?"}]}, "temporal_qa.json: entry 0 has no 'A'"),
        ({"consistency": [{"video_name": "a", "Q1": "what?", "A": "x"}]}, "consistency_qa.json: entry 0 has no 'Q2'"),
        ({"generic": {"a": 1}}, "generic_qa.json: expected a list"),
        ({"generic": [{"video_name": "../a", "Q": "what?", "A": "x"}]}, "leaves the folder of the test set"),
    ):
        with pytest.raises(UserError, match=message):
            BENCHMARKS["video_chatgpt"].load(write(tmp_path / "set", **changes))
    with pytest.raises(UserError, match=r"no generic_qa\.json here"):
        BENCHMARKS["video_chatgpt"].load(tmp_path / "nowhere")
