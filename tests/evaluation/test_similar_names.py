"""Files of a similar name are asked about, and every place that shows the numbers says so."""

import pytest
from qa_sets import StubEngine, counted_set, quiet_predict, records, stub_protocol, write_set

from vidtune.evaluation.report.page import build_report
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.scores.score_file import read_current_score, score_path
from vidtune.evaluation.scores.scoring import score_run
from vidtune.foreign.documents import read_object
from vidtune.registry import BENCHMARKS


@pytest.mark.parametrize("stored", [False, True])
def test_answers_about_files_of_similar_names_are_counted_and_said(tmp_path, stored):
    data = counted_set(tmp_path / "set", 6)
    files = tmp_path / "features" if stored else data / "videos"
    files.mkdir(exist_ok=True)
    if stored:
        (files / "clip0.npy").touch()
        (files / "CLIP1.npy").touch()
    else:
        (files / "clip1.mp4").rename(files / "CLIP1.mp4")
    test_set = BENCHMARKS["world_qa"]
    questions = test_set.load(data).with_similar_files()
    if stored:
        questions = test_set.with_features(questions, {"video": files}, "video")
    protocol = stub_protocol(features=("video",) if stored else ())
    run = quiet_predict(StubEngine(), questions, protocol, tmp_path / "run").run_dir
    wanted = "clip1 (.npy, .pkl, .pt, .safetensors)" if stored else "videos/clip1 (.mp4)"
    taken = f"{files}/CLIP1.npy" if stored else "videos/CLIP1.mp4"
    line = (
        f"3 questions under similar names (first: looked for {wanted}, took {taken}), "
        "which the published scripts count as missing"
    )
    score = score_run(run, "rules-v1", progress=False)
    assert score.reasons == (line,) and score.overall.similar == 3 and score.accuracy == 1
    assert line in str(score) and "among them     3 under similar names" in str(score)
    assert read_object(score_path(run, "rules-v1"))["overall"]["similar"] == 3
    assert read_current_score(RunFolder(run), "rules-v1").overall.similar == 3
    assert {one["id"]: one.get("took") for one in records(run / "questions.jsonl")}["clip1_1"] == taken
    page = build_report([run], tmp_path / "report.html").read_text()
    assert line in page and "3 under similar names" in page


def test_a_video_of_a_similar_name_that_no_stream_reads_is_not_said(tmp_path):
    data = write_set(tmp_path / "set", [("one", "question 1?", "answer 1")], missing=["one"])
    (data / "videos" / "ONE.mp4").touch()
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "one.npy").touch()
    test_set = BENCHMARKS["world_qa"]
    questions = test_set.with_features(
        test_set.load(data).with_similar_files(), {"video": tmp_path / "features"}, "video"
    )
    protocol = stub_protocol(features=("video",))
    out = quiet_predict(StubEngine(), questions, protocol, tmp_path / "run")
    assert out.answered == 1 and out.ledger.reasons() == ()
