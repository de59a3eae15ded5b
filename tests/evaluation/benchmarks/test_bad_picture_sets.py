"""Test sets of pictures that are wrong: one line says so, before a question is asked or a picture is written."""

import base64
import json

import pytest
from choice_sets import Chooser
from open_picture_sets import llava_bench, science_qa, table
from picture_sets import gqa, mme, pope, seed_bench, write_lines
from qa_sets import quiet_predict, records

from vidtune.errors import UserError
from vidtune.evaluation.runs.submission import Submission
from vidtune.registry import BENCHMARKS


def changed(path, change, lines=False):
    if lines:
        write_lines(path, change(records(path)))
    else:
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    return path


def gqa_question(**changes):
    one = {"imageId": "1", "question": "Is it?", "answer": "yes", "types": {"structural": "verify", "semantic": "obj"}}
    return {**one, "semantic": [], "groups": {"global": None}, "isBalanced": True, **changes}


def conversation(id, **more):
    return {"id": id, "conversations": [{"value": "q"}], **more}


def problems(count=2, right=0):
    return {"1": {"question": "q", "choices": ["x"] * count, "answer": right}}


def served(folder, asked, whole=()):
    write_lines(folder / "llava_vqav2_mscoco_test-dev2015.jsonl", asked)
    write_lines(folder / "llava_vqav2_mscoco_test2015.jsonl", whole)
    for one in asked:
        (folder / "test2015").mkdir(exist_ok=True)
        (folder / "test2015" / one["image"]).touch()
    return folder


def picture_table(folder, *indices):
    rows = [
        {
            "index": index,
            "question": "q",
            "A": "x",
            "B": "y",
            "answer": "A",
            "image": base64.b64encode(bytes(9)).decode(),
        }
        for index in indices
    ]
    table(folder / "mmbench_dev_20230712.tsv", rows)


def same_question_of_mme(folder):
    mme(folder, {"existence": ["1.jpg"]})
    text = folder / "MME_Benchmark_release_version" / "existence" / "1.txt"
    text.write_text("Is it? Please answer yes or no.\tYes\n" * 2)


def two_pictures_of_mme(folder):
    mme(folder, {"existence": ["1.jpg", "1.png"]})


def same_id_of_seed(folder):
    questions = changed(seed_bench(folder) / "SEED-Bench.json", lambda all: all)
    changed(questions, lambda all: {**all, "questions": [{**one, "question_id": 1} for one in all["questions"]]})


def pope_with(change):
    return lambda folder: changed(pope(folder, {"random": ["yes", "no"]}) / "llava_pope_test.jsonl", change, lines=True)


def split_of_science(test):
    def write(folder):
        science_qa(folder, [conversation("1")], problems())
        (folder / "pid_splits.json").write_text(json.dumps({"test": test}))

    return write


CONTEXTS = {
    "questions": [{"question_id": 0, "image": "1.jpg", "text": "q", "category": "c"}],
    "ans1": [{"question_id": 0, "text": "r"}],
    "context": [{"image": "1.jpg", "caption": "a"}, {"image": "1.jpg", "caption": "b"}],
}
TWICE = [{"question_id": 1, "image": "a.jpg", "text": text} for text in ("q1", "q2")]
BAD = {
    "ids": ("pope", pope_with(lambda all: [{**one, "question_id": 7} for one in all]), "entry 1: the id '7' is also"),
    "no text": ("pope", pope_with(lambda all: [{**all[0], "text": ""}]), "but .* entry 0 '' about i0.jpg"),
    "served ids": ("vqa_v2", lambda folder: served(folder, TWICE), "entry 1: the id '1' is also that of .* entry 0"),
    "seed": ("seed_bench", same_id_of_seed, "entry 1: 'question_id' '1' is also that of"),
    "mme": ("mme", same_question_of_mme, "1.txt: line 2: asks the same as .*1.txt: line 1"),
    "mme pictures": ("mme", two_pictures_of_mme, "1.png: the name of a picture '1' is also that of .*1.jpg"),
    "contexts": (
        "llava_bench",
        lambda folder: llava_bench(folder, CONTEXTS),
        "context.jsonl: entry 1: 'image' '1.jpg'",
    ),
    "rows": ("mmbench", lambda folder: picture_table(folder, 1, 1), "row 1: 'index' '1' is also that of .* row 0"),
    "outside": ("mmbench", lambda folder: picture_table(folder, "../x"), "'index' is '../x'; pictures are named after"),
    "conversations": (
        "science_qa_img",
        lambda folder: science_qa(folder, [conversation("1"), conversation(1)], problems()),
        "entry 1: 'id' '1' is also that of",
    ),
    "split": ("science_qa_img", split_of_science(["1", "1"]), "the id '1' is also that of"),
    "no split": ("science_qa_img", split_of_science(5), "pid_splits.json has no list 'test'"),
    "choices": (
        "science_qa_img",
        lambda folder: science_qa(folder, [conversation("1")], problems(30, 28)),
        "'answer' is 28, expected the place of one of its choices",
    ),
    "balanced": ("gqa", lambda folder: gqa(folder, {"1": gqa_question(isBalanced="false")}), "question '1' has no"),
    "group": ("gqa", lambda folder: gqa(folder, {"1": gqa_question(groups={"global": ["a"]})}), "question '1' has no"),
    "answer": ("gqa", lambda folder: gqa(folder, {"1": gqa_question(answer=None)}), "question '1' has no"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_wrong_set_is_named_in_one_line(tmp_path, bad):
    name, write, said = BAD[bad]
    write(tmp_path)
    with pytest.raises(UserError, match=said) as raised:
        BENCHMARKS[name].load(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("segment", [[5, 2], [-5, -1], [True, False], [0.5, float("inf")]])
def test_a_part_of_a_video_that_cannot_be_is_refused(tmp_path, segment):
    def give(all):
        return {**all, "questions": [{**one, "segment": segment} for one in all["questions"]]}

    changed(seed_bench(tmp_path) / "SEED-Bench.json", give)
    with pytest.raises(UserError, match="segment"):
        list(BENCHMARKS["seed_bench"].prepare(tmp_path))


def test_half_a_character_in_an_answer_loses_nothing_and_no_answer_vanishes_from_an_upload(tmp_path):
    served(tmp_path, [{**TWICE[0], "question_id": 8}], [{"question_id": 9}])
    questions = BENCHMARKS["vqa_v2"].load(tmp_path)
    protocol = BENCHMARKS["vqa_v2"].protocol(prompt_format="v1")
    run = quiet_predict(Chooser({0: "a \ud83d"}), questions, protocol, tmp_path / "run").run_dir
    assert records(run / "merge.jsonl")[0]["text"] == "a \ud83d"
    with pytest.raises(UserError, match=r"test2015\.jsonl: has no question 8, which was asked"):
        Submission(run).content()
