"""The report page: what it shows, and that nothing in it runs or loads; `test_report_browser` opens it."""

import base64
import html
import io
import json
import re
from html.parser import HTMLParser

import pytest
from event_sets import event_protocol, event_run, write_events
from misbehaving import JobOfReport
from PIL import Image
from qa_sets import StubEngine, stub_protocol, stub_run, write_set, write_video

from vidtune.data.sample import MediaRef
from vidtune.errors import MediaError, UserError
from vidtune.evaluation.metrics.programs.meteor import meteor_problem
from vidtune.evaluation.published import PublishedScore
from vidtune.evaluation.question import Question
from vidtune.evaluation.report import reading
from vidtune.evaluation.report.page import build_report
from vidtune.evaluation.report.pictures import picture_of, strip_of
from vidtune.evaluation.report.samples import Limits
from vidtune.evaluation.runs.checkpoint_identity import CheckpointIdentity
from vidtune.evaluation.runs.shown_media import ShownMedia, media_record, shown_media
from vidtune.evaluation.scores.score_file import read_score, write_score
from vidtune.evaluation.scores.score_lines import answers_text, counts_text
from vidtune.evaluation.scores.scoring import score_run
from vidtune.media import pool

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


def samples(page, group: int = 0) -> dict:
    """The data of the samples of a test set on a page."""
    return json.loads(
        re.findall(r'<script type="application/json" class="data">(.*?)</script>', page.read_text())[group]
    )


def test_texts_from_outside_are_escaped(page):
    text = page.read_text()
    assert EVIL not in text and "\\u003cscript\\u003ealert" in text
    tags = Page(text).tags
    assert [attributes.get("type") for tag, attributes in tags if tag == "script"] == ["application/json", None]
    assert not [tag for tag, attributes in tags if any(name.startswith("on") for name in attributes)]


def test_the_page_loads_nothing(page):
    for tag, attributes in Page(page.read_text()).tags:
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, attributes)
    assert "default-src 'none'" in page.read_text()
    assert not re.search(r"https?://|@import|url\(", page.read_text())


def test_frames_are_shown_once_per_video_and_unreadable_ones_explained(page):
    shown = samples(page)
    assert [picture[0][:23] for picture in shown["pictures"]] == ["data:image/jpeg;base64,"] * 2
    assert [(name, picture) for name, picture, _ in shown["media"]] == [("clip0", 0), ("clip1", 1), ("broken", None)]
    assert [bool(note) for *_, note in shown["media"]] == [False, False, True]
    assert shown["pictures"][0][1:] == [64 * 4 + 3 * 4, 64]


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
    text = build_report(
        [page.parent / "out" / "world_qa"], tmp_path / "short.html", limits=Limits(samples=1)
    ).read_text()
    assert len(samples(tmp_path / "short.html")["media"]) == 1
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
    build_report([run], tmp_path / "report.html", limits=Limits(frames=1))
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
    table = re.search(r"</thead>(.*?)</table>", text[text.index(title) :], re.DOTALL)[1]
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL)
    plain = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[" ".join(re.sub(r"<[^>]*>", " ", cell).split()) for cell in row] for row in plain]


def test_metrics_stand_side_by_side_with_one_column_per_run(events_page):
    text = events_page.read_text()
    rows = {row[1].removesuffix(", %"): row[2:] for row in cells(text, "World-Events: scores")}
    assert [value.split()[0] for value in rows["mIoU"]] == ["99.0", "0.0", "0.0"]
    assert "strict 66.0" in rows["mIoU"][0]
    assert rows["SODA_c"][0].startswith("left out" if meteor_problem() else "99.0")
    answered = [row[2] for row in cells(text, "World-Events: scores") if row[1] == "answered"]
    assert answered == ["2 of 3, 3 videos; 1 without file", *["4 of 6, 3 videos; 2 without file"] * 2]


def test_the_whole_run_is_compared_with_its_ablations(events_page):
    text = events_page.read_text()
    rows = {(row[0], row[1].removesuffix(", %")): row[2:] for row in cells(text, "Paired differences, in points")}
    assert [value.split()[0] for value in rows["grounding", "mIoU"]] == ["+99.0", "+99.0"]
    assert "2 videos: too few for an interval" in rows["grounding", "mIoU"][0]
    heading = text[text.index("Paired differences, in points") :]
    assert re.search(r"world_events − world_events-without-audio.*?protocols differ in without", heading, re.DOTALL)


def test_samples_show_the_measurements_of_each_answer(events_page):
    shown = samples(events_page)
    values = [reply["x"]["IoU"] for sample in shown["samples"] for reply in sample["r"] if "IoU" in reply.get("x", {})]
    assert {98.0, 0.0} < set(values) and {reply["s"] for one in shown["samples"] for reply in one["r"]} == {"measured"}
    assert any("Can you describe what occurred from 00 to 50 in the video?" in one["q"] for one in shown["samples"])
    assert EVIL not in events_page.read_text()


def test_judged_and_measured_runs_share_a_page(events_page):
    text = events_page.read_text()
    assert "World-QA: scores" in text and "rules-v1" in text
    assert build_report(sorted((events_page.parent / "out").iterdir()), events_page.parent / "again.html").exists()


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
    [label] = re.findall(r'<svg class="curve"[^>]*aria-label="([^"]*)"', text)
    assert label == "accuracy, % over preprocessing.num_frames: 0.0 at 8, 66.7 at 32, 66.7 at 128"
    assert "By number of frames" in text
    other = stub_protocol(preprocessing={"num_frames": 16}, generation={"max_new_tokens": 5})
    runs.append(stub_run(data, tmp_path / "other" / "world_qa", StubEngine({}), other).run_dir)
    score_run(runs[-1])
    assert "preprocessing.num_frames:" not in build_report(runs, tmp_path / "report.html").read_text()


def test_checkpoints_of_one_training_make_a_curve_over_its_steps(tmp_path):
    data = write_set(tmp_path / "set", ENTRIES[:3])
    final = tmp_path / "train" / "final"
    final.mkdir(parents=True)
    (final.parent / "log.jsonl").write_text('{"step": 10}\n{"step": 300}\n')
    runs = []
    for path, said in ((tmp_path / "train" / "checkpoint-100", {}), (final, SEEING), (tmp_path / "elsewhere", {})):
        identity = CheckpointIdentity(path=str(path), fingerprint=path.name)
        folder = tmp_path / "out" / path.name
        runs.append(stub_run(data, folder, StubEngine(said), checkpoint=identity).run_dir)
        score_run(runs[-1])
    text = build_report(runs, tmp_path / "report.html").read_text()
    assert 'aria-label="accuracy, % over training step: 0.0 at 100, 66.7 at 300"' in text
    assert "training step" not in build_report(runs[1:], tmp_path / "report.html").read_text()


def test_videos_of_different_lengths_are_scored_apart(tmp_path):
    data = write_set(tmp_path / "set", ENTRIES[:4])
    write_video(data / "videos" / "clip0.mp4", (20, 60, 160))
    write_video(data / "videos" / "clip1.mp4", (20, 60, 160), frames=8 * 12, size=32)
    run = stub_run(data, tmp_path / "world_qa", StubEngine(SEEING)).run_dir
    score_run(run)
    text = build_report([run], tmp_path / "report.html", limits=Limits(pictures=0)).read_text()
    plot = text.split("By length of the video")[1]
    assert re.findall(r'<div class="name">(.*?) <small>(.*?)</small>', plot)[:2] == [
        ("0 s to 5 s", "1 video"),
        ("10 s to 20 s", "1 video"),
    ]
    assert [float(value) for value in re.findall(r"<b>([\d.]+)</b>", plot)[:2]] == [50.0, 50.0]
    assert samples(tmp_path / "report.html")["pictures"] == []
    assert "Frames of 0 of 2 videos or pictures are in this page" in text


def opened(picture) -> Image.Image:
    """The pixels of a picture of the page."""
    return Image.open(io.BytesIO(base64.b64decode(picture.address.partition(",")[2]))).convert("RGB")


def test_pictures_and_boxes_are_shown(tmp_path):
    Image.new("RGB", (100, 80), (90, 90, 90)).save(tmp_path / "one.png")
    (tmp_path / "frames").mkdir()
    for name in ("1.png", "2.png"):
        Image.new("RGB", (100, 80), (90, 90, 90)).save(tmp_path / "frames" / name)
    assert opened(picture_of(strip_of(tmp_path, "one.png", ShownMedia(), 4))).getpixel((10, 40)) == (90, 90, 90)
    box = MediaRef("box", "frames", extras=(("boxes", ((10, 20, 60, 70),)),), frames=("2.png",))
    track = MediaRef("track", "frames", extras=(("boxes", ((10, 20, 60, 70), (20, 20, 70, 70))), ("frames", (0, 1))))
    further = MediaRef("image", "one.png")
    question = Question(0, "0", "v", "frames", "?", "", media=(box, track, further), start=1.5)
    media = shown_media(json.loads(json.dumps(media_record(question))))
    assert (media.start, media.end, media.pictures) == (1.5, None, ("one.png",))
    assert [(one.frame, one.asked) for one in media.boxes] == [("2.png", True), (0, False), (1, False)]
    shown = picture_of(strip_of(tmp_path, "frames", media, 4))
    assert (shown.width, shown.height) == (4 * 100 + 3 * 4, 80)
    colours = [opened(shown).getpixel((left + 10, 45)) for left in (0, 104, 208)]
    assert [max(range(3), key=one.__getitem__) for one in colours[:2]] == [0, 1]  # red is asked about, green a track
    assert max(colours[2]) - min(colours[2]) < 40 and shown_media({}) == ShownMedia()


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hosts", "gone.png"])
def test_a_picture_outside_the_test_set_is_not_shown(tmp_path, name):
    with pytest.raises(MediaError, match=r"leaves the folder|no longer there"):
        picture_of(strip_of(tmp_path, name, ShownMedia(), 4))


def test_a_picture_that_a_link_takes_out_of_the_test_set_is_not_shown(tmp_path):
    """Its folder of videos may be a link, as where they lie on another disk."""
    data, disk = tmp_path / "set", tmp_path / "disk"
    for folder in (data, disk):
        folder.mkdir()
    for path in (tmp_path / "secret.png", disk / "one.png"):
        Image.new("RGB", (8, 8)).save(path)
    (data / "videos").symlink_to(disk)
    (disk / "linked.png").symlink_to(tmp_path / "secret.png")
    assert picture_of(strip_of(data, "videos/one.png", ShownMedia(), 4)).width == 8
    with pytest.raises(MediaError, match="leads out of the folder of the test set through a symbolic link"):
        picture_of(strip_of(data, "videos/linked.png", ShownMedia(), 4))


def test_published_scores_and_fragile_answers_stand_beside_a_run(tmp_path, monkeypatch):
    data = write_set(tmp_path / "set", ENTRIES[:3])
    run = stub_run(data, tmp_path / "world_qa", StubEngine(SEEING)).run_dir
    score = score_run(run)
    there = {"system": "video_llava", "benchmark": "world_qa", "kind": "paper", "source": "A & B, table 3"}
    known = PublishedScore(**there, model="<b>7B</b>", values={"accuracy": 70.7}, judge="gpt-3.5-turbo")
    monkeypatch.setattr("vidtune.evaluation.report.run_group.published_beside", lambda run: [known])
    whole = score.overall.model_copy(update={"with_margin": 3, "fragile": 2})
    write_score(run, score.model_copy(update={"overall": whole}))
    text = build_report([run], tmp_path / "report.html").read_text()
    table = text[text.index("Published scores on this test set") :]
    row = re.search(r"<tr><th>&lt;b&gt;7B.*?</tr>", table)[0]
    assert "accuracy <b>70.7</b>" in row and "A &amp; B, table 3" in row
    assert "judge: gpt-3.5-turbo there, rules-v1 here" in row
    assert "A: 2 of 3 greedy answers are fragile" in text


def test_a_file_that_hangs_costs_its_own_picture(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    monkeypatch.setattr(pool, "_TRIES", 1)
    [shown] = reading.read_all([reading.Strip(tmp_path, "one.png", ShownMedia(), 4)])
    assert shown.values is not None and shown.values.shape == (8, 8, 3)
    monkeypatch.setattr(reading, "SECONDS", 1.0)
    [late] = reading.read_all([JobOfReport("hang", path=str(tmp_path / "one.png"))])
    assert late.values is None and "was not read within 1 s" in late.reason
