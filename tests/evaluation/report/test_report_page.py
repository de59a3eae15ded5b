"""The report page: what it shows, that nothing in it runs or loads, and that its filters work in a browser."""

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from event_sets import event_protocol, event_run, write_events
from qa_sets import StubEngine, stub_protocol, stub_run, write_set, write_video

from vidtune.errors import UserError
from vidtune.evaluation.metrics.programs.meteor import meteor_problem
from vidtune.evaluation.report.page import build_report
from vidtune.evaluation.scores.score_file import read_score
from vidtune.evaluation.scores.score_lines import answers_text, counts_text
from vidtune.evaluation.scores.scoring import score_run

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)> & "quoted"'
ENTRIES = [
    ("clip0", "What colour is the square?", "white"),
    ("clip0", "Which way does it move?", "right"),
    ("clip1", "How many squares are there?", "one"),
    ("clip1", EVIL, "cat"),
    ("broken", "What is shown?", "nothing"),
    ("gone", "What was here?", "nothing"),
]
TYPES = ["colour", "direction", "count", "colour", "colour", "count"]
SEEING = {
    "What colour is the square?": "It is white.",
    "Which way does it move?": "left",
    "How many squares are there?": "1",
    EVIL: EVIL,
    "What is shown?": "",
}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    data = write_set(folder / "set", ENTRIES, types=TYPES, missing=["gone"])
    for name, colour in (("clip0", (20, 60, 160)), ("clip1", (160, 40, 30))):
        write_video(data / "videos" / f"{name}.mp4", colour)
    runs = [
        stub_run(data, folder / "out" / "world_qa", StubEngine(SEEING)).run_dir,
        stub_run(
            data, folder / "out" / "world_qa-blind", StubEngine({"What is shown?": "x"}), stub_protocol(blind=True)
        ).run_dir,
    ]
    for run in runs:
        score_run(run)
    return build_report(runs, folder / "report.html")


class Page(HTMLParser):
    """Tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_texts_from_outside_are_escaped(page):
    text = page.read_text()
    assert EVIL not in text and "&lt;script&gt;alert" in text
    tags = Page(text).tags
    assert sum(tag == "script" for tag, _ in tags) == 1
    assert not [tag for tag, attributes in tags if any(name.startswith("on") for name in attributes)]


def test_the_page_loads_nothing(page):
    for tag, attributes in Page(page.read_text()).tags:
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
    assert "default-src 'none'" in page.read_text()
    assert not re.search(r"https?://|@import|url\(", page.read_text())


def test_frames_are_shown_once_per_video_and_unreadable_ones_explained(page):
    text = page.read_text()
    assert len(re.findall(r'<img src="data:image/jpeg;base64,', text)) == 2
    assert text.count("no frames:") == 1


def test_scores_comparison_and_problems_are_shown(page):
    text = page.read_text()
    for shown in ("rules-v1", "world_qa-blind", "Paired differences", "no video file", stub_protocol().hash):
        assert shown in text, shown
    assert "2 questions without an answer or a verdict" in text


@pytest.mark.parametrize(
    ("name", "run", "judge"), [("page", "world_qa", "rules-v1"), ("events_page", "world_events", "metrics")]
)
def test_page_console_and_file_say_the_same_about_what_is_not_there(name, run, judge, request):
    page = request.getfixturevalue(name)
    score = read_score(page.parent / "out" / run, judge)
    text = html.unescape(page.read_text())
    groups = [score.overall] if score.overall else score.groups
    assert score.reasons and all(line in str(score) and f"{run}: {line}" in text for line in score.reasons)
    for words in [*map(counts_text, groups), *map(answers_text, groups)]:
        assert words in str(score) and words in text


def test_building_twice_gives_the_same_page(page, tmp_path):
    runs = [page.parent / "out" / name for name in ("world_qa", "world_qa-blind")]
    assert build_report(runs, tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_samples_can_be_limited_and_say_so(page, tmp_path):
    text = build_report([page.parent / "out" / "world_qa"], tmp_path / "short.html", max_samples=1).read_text()
    assert text.count('class="card video"') == 1
    assert re.search(r"[12] of 5 questions, from videos drawn", text)


def test_a_run_without_score_is_refused(page, tmp_path):
    run = stub_run(page.parent / "set", tmp_path / "run").run_dir
    with pytest.raises(UserError, match="not scored by any judge; judge the run first"):
        build_report([run], tmp_path / "report.html")
    with pytest.raises(UserError, match="at least one run"):
        build_report([], tmp_path / "report.html")


def test_a_score_of_another_time_is_refused(page, tmp_path):
    data, engine = page.parent / "set", StubEngine(SEEING)
    run = stub_run(data, tmp_path / "run", engine, limit=2).run_dir
    score_run(run)
    build_report([run], tmp_path / "report.html", frames=1)
    stub_run(data, run, engine)
    with pytest.raises(UserError, match=r"score by rules-v1 is of another time, now it has 5 of 6 questions answered"):
        build_report([run], tmp_path / "report.html")


@pytest.fixture(scope="module")
def events_page(tmp_path_factory):
    """Runs of an event benchmark: whole, without a stream (finds nothing), blind; and a judged run beside them."""
    folder = tmp_path_factory.mktemp("events")
    annotated = {"duration": 1.0, "timestamps": [[0, 0.5], [0.4, 1]], "sentences": ["A bell rings.", EVIL]}
    data = write_events(folder / "set", {"clip0": annotated, "clip1": annotated, "gone": annotated}, missing=["gone"])
    for name in ("clip0", "clip1"):
        write_video(data / "videos" / f"{name}.mp4", (20, 60, 160))
    nothing = {f"clip{video}/grounding/{number}": "nowhere" for video in (0, 1) for number in (0, 1)}
    out = folder / "out"
    runs = [
        event_run(data, out / "world_events").run_dir,
        event_run(
            data, out / "world_events-without-audio", replies=nothing, protocol=event_protocol(without=("audio",))
        ).run_dir,
        event_run(data, out / "world_events-blind", replies=nothing, protocol=event_protocol(blind=True)).run_dir,
        stub_run(write_set(folder / "qa", ENTRIES), out / "world_qa").run_dir,
    ]
    for run in runs:
        score_run(run)
    return build_report(runs, folder / "report.html")


def cells(text: str, title: str) -> list[list[str]]:
    """The texts of the first table after a heading, row by row."""
    table = re.search(r"<tbody>(.*?)</tbody>", text[text.index(title) :], re.DOTALL)[1]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    plain = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[" ".join(re.sub(r"<[^>]*>", " ", cell).split()) for cell in row] for row in plain]


def test_metrics_stand_side_by_side_with_one_column_per_run(events_page):
    text = events_page.read_text()
    rows = {row[1]: row[2:] for row in cells(text, "World-Events: scores")}
    assert [value.split()[0] for value in rows["mIoU"]] == ["99.0", "0.0", "0.0"]
    assert "strict 66.0" in rows["mIoU"][0]
    assert rows["SODA_c"][0].startswith("left out" if meteor_problem() else "99.0")
    answered = [row[2] for row in cells(text, "World-Events: scores") if row[1] == "answered"]
    assert answered == ["2 of 3, 3 videos; 1 without video", *["4 of 6, 3 videos; 2 without video"] * 2]


def test_the_whole_run_is_compared_with_its_ablations(events_page):
    text = events_page.read_text()
    rows = {(row[0], row[1]): row[2:] for row in cells(text, "Paired differences, in points")}
    assert [value.split()[0] for value in rows["grounding", "mIoU"]] == ["+99.0", "+99.0"]
    assert "2 videos: too few for an interval" in rows["grounding", "mIoU"][0]
    heading = text[text.index("Paired differences, in points") :]
    assert re.search(r"world_events − world_events-without-audio.*?protocols differ in without", heading, re.DOTALL)


def test_samples_show_the_measurements_of_each_answer(events_page):
    text = events_page.read_text()
    assert '<span class="badge">IoU 98.0</span>' in text and '<span class="badge">IoU 0.0</span>' in text
    assert "Can you describe what occurred from 00 to 50 in the video?" in text
    events = text[text.index("World-Events: samples") : text.index("World-QA: scores")]
    assert 'name="verdict"' not in events and 'name="type"' in events
    assert EVIL not in text and "&lt;script&gt;alert" in text


def test_judged_and_measured_runs_share_a_page(events_page):
    text = events_page.read_text()
    assert "World-QA: scores" in text and "rules-v1" in text
    assert build_report(sorted((events_page.parent / "out").iterdir()), events_page.parent / "again.html").exists()


def rendered(page, tmp_path, state: str) -> str:
    """The page's document after its script has run."""
    switches = ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-dev-shm-usage")
    switches += ("disable-background-networking", "disable-component-update", "disable-sync")
    flags = [f"--{switch}" for switch in switches]
    command = [
        str(CHROMIUM),
        *flags,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        f"{page.as_uri()}{state}",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize(
    ("state", "count", "questions"),
    [
        ("", 5, None),
        ("#verdict=right", 2, {"What colour is the square?", "How many squares are there?"}),
        ("#verdict=right&run=1", 0, set()),
        ("#type=colour&verdict=wrong", 2, {"What is shown?"}),
        ("#text=MOVE", 1, {"Which way does it move?"}),
    ],
)
def test_filters_work_in_a_browser(page, tmp_path, state, count, questions):
    document = rendered(page, tmp_path, state)
    assert f"{count} of 5 questions</output>" in document
    shown = re.findall(r'<div class="question"(?![^>]*hidden)[^>]*>\s*<div class="ask"><b>(.*?)</b>', document)
    assert len(shown) == count
    if questions is not None:
        assert questions <= set(shown)
    hidden_videos = len(re.findall(r'<article class="card video" hidden', document))
    assert hidden_videos == sum(
        not re.search(r'<div class="question"(?![^>]*hidden)', part) for part in document.split("<article")[1:]
    )


def test_runs_that_differ_in_one_number_make_a_curve(tmp_path):
    data = write_set(tmp_path / "set", ENTRIES[:3], types=TYPES[:3])
    answers = {32: SEEING, 8: {}, 128: SEEING}
    runs = []
    for frames, said in answers.items():
        protocol = stub_protocol(preprocessing={"num_frames": frames})
        runs.append(stub_run(data, tmp_path / f"num_frames={frames}" / "world_qa", StubEngine(said), protocol).run_dir)
    blind = stub_protocol(blind=True, preprocessing={"num_frames": 32})
    runs.append(stub_run(data, tmp_path / "world_qa-blind", StubEngine({}), blind).run_dir)
    for run in runs:
        score_run(run)
    text = build_report(runs, tmp_path / "report.html").read_text()
    curve = text.split("Accuracy over preprocessing.num_frames")[1].split("Accuracy by question type")[0]
    assert re.findall(r'class="name first">(\d+)<', curve) == ["8", "32", "128"]
    assert [float(right) for right in re.findall(r'<span class="first">([\d.]+) ', curve)] == [0.0, 66.7, 66.7]
    other = stub_protocol(preprocessing={"num_frames": 16}, generation={"max_new_tokens": 5})
    runs.append(stub_run(data, tmp_path / "other" / "world_qa", StubEngine({}), other).run_dir)
    score_run(runs[-1])
    assert "Accuracy over" not in build_report(runs, tmp_path / "report.html").read_text()
