"""``vidtune submit``: files for servers, and answers in an official evaluation folder as its manual draws it."""

import json

import pytest
from choice_sets import touch
from open_picture_sets import Canned, llava_bench, mm_vet, science_qa, table
from picture_sets import SHORT, gqa, pope, textvqa, write_lines
from qa_sets import quiet_predict, write_set

from vidtune.cli.main import run as command
from vidtune.errors import UserError
from vidtune.evaluation.judges.base import Judge, Judgement, Usage
from vidtune.evaluation.runs.judgements import form_of
from vidtune.evaluation.runs.official_log import import_log
from vidtune.evaluation.runs.submission import Submission, write_back
from vidtune.evaluation.scores.judging import judge_run
from vidtune.registry import BENCHMARKS

OPTIONS = {"index": 7, "question": "Which?", "hint": None, "A": "cat", "B": "dog", "C": None, "D": None}
ROW = {**OPTIONS, "answer": "A", "category": "c", "image": "aGk=", "source": "s", "l2-category": "l", "comment": None}
LINE = {"question_id": 1, "image": "1.jpg", "text": f"Is it?\n{SHORT}"}
ANNOTATED = {"semantic": [], "types": {"structural": "query", "semantic": "obj"}, "groups": {"global": None}}
GQA = {"isBalanced": True, "imageId": "1", "question": "Is it?", "answer": "yes", **ANNOTATED}
TEXT = {"image_id": "i", "question": "what?", "answers": ["a"] * 10}
WRITTEN = {
    "activitynet_qa": "GPT_Zero_Shot_QA/Activitynet_Zero_Shot_QA/{}/merge.jsonl",
    "msrvtt_qa": "GPT_Zero_Shot_QA/MSRVTT_Zero_Shot_QA/{}/merge.jsonl",
    "msvd_qa": "GPT_Zero_Shot_QA/MSVD_Zero_Shot_QA/{}/merge.jsonl",
    "tgif_qa": "GPT_Zero_Shot_QA/TGIF_Zero_Shot_QA/{}/merge.jsonl",
    "gqa": "gqa/answers/llava_gqa_testdev_balanced/{}/merge.jsonl",
    "llava_bench": "llava-bench-in-the-wild/answers/{}.jsonl",
    "mmbench": "mmbench/answers/mmbench_dev_20230712/{}.jsonl",
    "mmbench_en": "mmbench/answers/mmbench_dev_en_20231003/{}.jsonl",
    "mm_vet": "mm-vet/answers/{}.jsonl",
    "pope": "pope/answers/{}.jsonl",
    "science_qa_img": "scienceqa/answers/{}.jsonl",
    "textvqa": "textvqa/answers/{}.jsonl",
    "vizwiz": "vizwiz/answers/{}.jsonl",
    "vqa_v2": "vqav2/answers/llava_vqav2_mscoco_test-dev2015/{}/merge.jsonl",
}
"""Benchmark -> where the answers of a model go below ``eval/``."""
UPLOADS = {
    "mmbench": "mmbench/answers_upload/mmbench_dev_20230712/{}.xlsx",
    "mmbench_en": "mmbench/answers_upload/mmbench_dev_en_20231003/{}.xlsx",
    "mm_vet": "mm-vet/results/{}.json",
    "vizwiz": "vizwiz/answers_upload/{}.json",
    "vqa_v2": "vqav2/answers_upload/llava_vqav2_mscoco_test-dev2015/{}.json",
}


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """An evaluation folder as the manual draws it, with one question per set."""
    top = tmp_path_factory.mktemp("work") / "eval"
    for name, videos in (("Activitynet", "all_test"), ("MSRVTT", "videos/all"), ("MSVD", "videos"), ("TGIF", "mp4")):
        folder = top / "GPT_Zero_Shot_QA" / f"{name}_Zero_Shot_QA"
        write_set(folder, [("1", "what?", "a cat")], videos=videos)
        touch(folder / videos / "v_1.mp4")
    gqa(top / "gqa", {"1": GQA})
    llava_bench(
        top / "llava-bench-in-the-wild",
        {
            "questions": [{"question_id": 0, "image": "0.jpg", "text": "What is it?", "category": "conv"}],
            "ans1": [{"question_id": 0, "text": "a cat", "answer_id": "r"}],
            "context": [{"image": "0.jpg", "caption": "a cat"}],
        },
    )
    for name in ("mmbench_dev_20230712", "mmbench_dev_en_20231003"):
        table(top / "mmbench" / f"{name}.tsv", [ROW])
    mm_vet(top / "mm-vet", {"v1_0": {"question": "What is it?", "answer": "a cat", "capability": ["rec"]}})
    pope(top / "pope", {"random": ["yes"]})
    turns = [{"from": "human", "value": "Context: N/A\nQuestion: Q?\nOptions: (A) a (B) b\n<image>"}]
    problem = {"choices": ["a", "b"], "answer": 0, "subject": "natural science"}
    science_qa(top / "scienceqa", [{"id": "3", "image": "3/image.png", "conversations": turns}], {"3": problem})
    textvqa(top / "textvqa", [TEXT], [("i", f"what?\nReference OCR token: a\n{SHORT}")])
    write_lines(top / "vizwiz" / "llava_test.jsonl", [{**LINE, "question_id": "1.jpg"}])
    for name in ("test2015", "test-dev2015"):
        write_lines(top / "vqav2" / f"llava_vqav2_mscoco_{name}.jsonl", [LINE])
    touch(top / "vizwiz" / "test" / "1.jpg")
    touch(top / "vqav2" / "test2015" / "1.jpg")
    return top


@pytest.fixture(scope="module")
def runs(official):
    """Benchmark -> folder of a run of it, whose every answer is "B"; the test set is found below ``eval/``."""
    folder = official.parent / "runs"
    for name in WRITTEN:
        test_set = BENCHMARKS[name]
        questions = test_set.load(official)
        assert [one.missing for one in questions.questions] == [False], name
        quiet_predict(Canned(["B"]), questions, test_set.protocol(prompt_format="stub"), folder / name)
    return folder


def test_answers_go_where_the_official_scripts_put_them_and_are_read_back(official, runs):
    for name, place in WRITTEN.items():
        written = {str(path.relative_to(official)) for path in write_back(Submission(runs / name, official), "ours")}
        expected = {place.format("ours")} | ({UPLOADS[name].format("ours")} if name in UPLOADS else set())
        assert written == expected or (name == "gqa" and expected < written), name
        log = import_log(official / place.format("ours"), name, official, official.parent / "back" / name)
        assert [one.pred for one in log.predictions()] == ["B"], name


class Says(Judge):
    """Gives this reply to every answer."""

    def __init__(self, name, reply):
        self.name, self.reply, self.identity = name, reply, {"kind": "chat", "model": f"maker/{name}"}

    def judge(self, items, done):
        for item in items:
            done(Judgement(item, form_of(item).reading(self.reply)[0], attempts=1, reply=self.reply))
        return Usage()


def test_what_a_judge_said_goes_where_the_official_scripts_put_it(official, runs):
    judge_run(runs / "llava_bench", Says("a", "9, 7.5\nWell said"), progress=False)
    judge_run(runs / "llava_bench", Says("b", "8 6.5\nGood"), progress=False)
    assert not Submission(runs / "llava_bench", official).reviews("judged")  # of which judge?
    written = list(write_back(Submission(runs / "llava_bench", official), "judged", "b"))
    [record] = [json.loads(line) for line in written[1].read_text().splitlines()]
    assert written[1] == official / "llava-bench-in-the-wild" / "reviews" / "judged.jsonl"
    assert record == {
        **{"id": 1, "question_id": 0, "answer1_id": "r", "category": "llava_bench_conv"},
        **{"answer2_id": json.loads(written[0].read_text())["answer_id"], "content": "8 6.5\nGood", "tuple": [8, 6.5]},
    }
    judge_run(runs / "mm_vet", Says("c", "0.9 ok"), progress=False)
    written = {path.name: path for path in write_back(Submission(runs / "mm_vet", official), "judged")}
    tables = [written[f"judged_maker_c-{name}-1runs.csv"].read_text() for name in ("cap-score", "cap-int-score")]
    assert tables == [",rec,total,std,runs\njudged,90.0,90.0,0.0,[90.0]\n"] * 2
    assert json.loads(written["judged_maker_c-grade-1runs.json"].read_text()) == {
        "v1_0": {"model": ["maker/c"], "content": ["0.9"], "score": [0.9]}
    }


def test_a_file_with_other_answers_is_kept(official, runs, capsys):
    answers = official / WRITTEN["pope"].format("theirs")
    answers.parent.mkdir(parents=True, exist_ok=True)
    answers.write_text('{"question_id": 0, "text": "yes"}\n')
    assert command(["submit", str(runs / "pope"), "--into", str(official), "--model", "theirs"]) == 2
    assert "holds other answers" in capsys.readouterr().err and "yes" in answers.read_text()
    for wrong in ("a/b", "..", ""):
        with pytest.raises(UserError, match="expected a name"):
            list(write_back(Submission(runs / "pope", official), wrong or "."))


def test_the_file_for_the_server_is_written(official, runs, tmp_path, capsys):
    assert command(["submit", str(runs / "mm_vet")]) == 0
    assert json.loads((runs / "mm_vet" / "upload.json").read_text()) == {"v1_0": "B"}
    assert "MM-Vet" in capsys.readouterr().out
    assert command(["submit", str(runs / "vqa_v2"), "--out", str(tmp_path / "mine.json")]) == 0
    assert json.loads((tmp_path / "mine.json").read_text()) == [{"question_id": 1, "answer": "b"}]
    assert command(["submit", str(runs / "pope")]) == 2
    assert "no server takes answers" in capsys.readouterr().err


def test_a_run_about_another_test_set_is_refused(official, runs, tmp_path):
    pope(tmp_path / "pope", {"random": ["yes", "no"]})
    with pytest.raises(UserError, match="another version of pope"):
        Submission(runs / "pope", tmp_path)
