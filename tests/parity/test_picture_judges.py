"""Pictures with options or judged answers: prompts, records, letters, uploads and scores of the published scripts."""

import base64
import csv
import json
import re
import zipfile
from xml.etree import ElementTree

import pytest
from judge_server import Reply, judge_server
from open_picture_sets import Canned, llava_bench, mm_vet, science_qa, table
from picture_sets import write_lines
from qa_sets import quiet_predict, records

from vidtune.data.sample import Turn
from vidtune.evaluation.benchmarks.images.science_qa import opening_letter
from vidtune.evaluation.judges.openai_compatible import Limits, OpenAICompatibleJudge
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.official_log import import_log
from vidtune.evaluation.runs.submission import Submission, write_back
from vidtune.evaluation.scores.score_file import read_score
from vidtune.evaluation.scores.scoring import score_run
from vidtune.registry import BENCHMARKS, SYSTEMS

PATIENT = Limits(attempts=12, backoff=0.001, timeout=20, failures=None, concurrency=1)


@pytest.fixture(scope="module")
def fixture(parity_folder):
    return lambda name: json.loads((parity_folder / "evaluation" / f"{name}.json").read_text())


def asked(benchmark, data, outputs, run, **changes):
    """(prompts, records of answers) of a run of Video-LLaVA's rules."""
    test_set = BENCHMARKS[benchmark]
    rules = test_set.system_rules["video_llava"]
    protocol = test_set.protocol(prompt_format=rules["prompt_format"]).with_overrides(changes, "test")
    engine = Canned(outputs)
    quiet_predict(engine, test_set.load(data), protocol, run)
    written = SYSTEMS["video_llava"].dialect.prompts[protocol.prompt_format].with_eos("</s>")
    texts = [request.question.replace("<image>", "<IMAGE>") for request in engine.requests]
    prompts = [
        "".join(piece.text for piece in written.render([Turn("user", text)], open_answer=True)) for text in texts
    ]
    found = records(run / "merge.jsonl") if (run / "merge.jsonl").is_file() else []
    return [prompt.replace("<IMAGE>", "<image>") for prompt in prompts], found


def plain(entries):
    """Records of answers without what no script reads: random ids, the name of the model."""
    return [{name: value for name, value in one.items() if name not in ("answer_id", "model_id")} for one in entries]


MMBENCH = {
    "single_pred": ("mmbench", "mmbench_dev_20230712"),
    "single_pred_cn": ("mmbench_cn", "mmbench_dev_cn_20231003"),
    "all_rounds": ("mmbench_all_rounds", "mmbench_dev_20230712"),
    "plain": ("mmbench", "mmbench_dev_20230712"),
}


def test_mmbench_asks_as_published(fixture, tmp_path):
    data = fixture("image_prompts")
    for name, (benchmark, file) in MMBENCH.items():
        table(tmp_path / name / f"{file}.tsv", data["inputs"]["mmbench"]["rows"])
        expected = data["expected"]["mmbench"][name]
        outputs = [one["text"] for one in expected["records"]]
        changes = {"choices": {"wording": "{hint}{question}\n{options}"}} if name == "plain" else {}
        prompts, found = asked(benchmark, tmp_path / name, outputs, tmp_path / f"run-{name}", **changes)
        assert prompts == expected["prompts"]
        assert plain(found) == plain(expected["records"])
        picture = BENCHMARKS[benchmark].load(tmp_path / name).questions[0]
        assert (tmp_path / name / picture.file).read_bytes() == base64.b64decode("aGk=")


def test_mmbench_uploads_the_published_sheet(fixture, tmp_path):
    data = fixture("mmbench_submission")
    table(tmp_path / "mmbench_dev_20230712.tsv", data["inputs"]["rows"])
    test_set = BENCHMARKS["mmbench"]
    questions = test_set.load(tmp_path)
    last = {str(one["question_id"]): one["text"] for one in data["inputs"]["answers"]}
    quiet_predict(
        Canned([last.get(one.id, "") for one in questions.questions]),
        questions,
        test_set.protocol(prompt_format="vicuna_v1"),
        tmp_path / "run",
    )
    given = [one for one in RunFolder(tmp_path / "run").predictions() if one.id in last]
    (tmp_path / "upload.xlsx").write_bytes(test_set.submission(given, questions))
    assert cells(tmp_path / "upload.xlsx") == (data["expected"]["sheet_title"], data["expected"]["rows"])


def cells(path):
    """(title, rows) of a workbook, by its parts as the standard writes them."""
    main = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    with zipfile.ZipFile(path) as archive:
        title = ElementTree.fromstring(archive.read("xl/workbook.xml")).find(f".//{main}sheet").get("name")
        lines = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml")).iter(f"{main}row")
        rows = [{cell.get("r"): cell for cell in line} for line in lines]
    names = [re.sub(r"\d", "", name) for name in rows[0]]
    return title, [[cell_value(row.get(f"{name}{place}")) for name in names] for place, row in enumerate(rows, 1)]


def cell_value(cell):
    if cell is None:
        return None
    text = "".join(cell.itertext())
    return text if cell.get("t") == "inlineStr" else int(text)


def test_science_qa_asks_with_and_without_a_picture(fixture, tmp_path):
    data = fixture("image_prompts")
    case, expected = data["inputs"]["scienceqa"], data["expected"]["scienceqa_single_pred"]
    problems = {one["id"]: {"choices": ["a", "b"], "answer": 0} for one in case["questions"]}
    science_qa(tmp_path / "scienceqa", case["questions"], problems)
    prompts, found = asked("science_qa_img", tmp_path, case["raw_outputs"], tmp_path / "run")
    assert prompts == expected["prompts"]
    assert plain(found) == plain(expected["records"])


def test_science_qa_scores_as_published(fixture, tmp_path):
    data = fixture("scienceqa_accuracy")
    problems, answers = data["inputs"]["problems"], {one["question_id"]: one for one in data["inputs"]["answers"]}
    prompts = {id: answers.get(id, {"prompt": "<image>\np"})["prompt"] for id in problems}
    conversations = [
        {
            "id": id,
            "conversations": [{"from": "human", "value": prompt}],
            **({"image": f"{id}/image.png"} if prompt.startswith("<image>") else {}),
        }
        for id, prompt in prompts.items()
    ]
    folder = science_qa(tmp_path / "set", conversations, problems)
    log = write_lines(tmp_path / "log.jsonl", data["inputs"]["answers"])
    run = import_log(log, "science_qa_img", folder, tmp_path / "run")
    for one in [*data["expected"]["output_file"]["correct"], *data["expected"]["output_file"]["incorrect"]]:
        assert (opening_letter(one["pred"], ()) or "FAILED") == one["parsed_ans"]
    score = score_run(run.path, progress=False)
    found = [score.overall.questions, score.overall.yes]
    found += [f"{score.value(name).official.value:.2f}" for name in ("accuracy", "IMG-accuracy")]
    assert "Total: {}, Correct: {}, Accuracy: {}%, IMG-Accuracy: {}%".format(*found) == data["expected"]["stdout"]


def test_open_questions_are_asked_as_published(fixture, tmp_path):
    data = fixture("image_prompts")
    questions = [{"category": "conv", **one} for one in data["inputs"]["open_ended"]["questions"]]
    names = dict.fromkeys(one["image"] for one in questions)
    inputs = {
        "questions": questions,
        "ans1": [{"question_id": one["question_id"], "text": "a"} for one in questions],
        "context": [{"image": name, "caption": "c"} for name in names],
    }
    llava_bench(tmp_path, inputs)
    for name, marks in (("open_ended", ("", "")), ("open_ended_im_start_end", ("<im_start>", "<im_end>"))):
        changes = {"question_template": "{media}\n{question}".replace("{media}", "{media}".join(marks))}
        prompts, found = asked(
            "llava_bench", tmp_path, data["inputs"]["open_ended"]["raw_outputs"], tmp_path / name, **changes
        )
        assert prompts == data["expected"][name]["prompts"]
        assert plain(found) == plain(data["expected"][name]["records"])
        assert (
            BENCHMARKS["llava_bench"].generation.max_new_tokens
            == data["expected"][name]["generate_kwargs"]["max_new_tokens"]
        )


def by_question(case):
    """Replies of one case; ``__RAISE__`` is a failing server, the last reply repeats."""
    given = {}

    def reply(body, earlier):
        prompt = body["messages"][-1]["content"]
        entry = next(entry for entry in case if entry["match"] in prompt)
        place = given[entry["match"]] = given.get(entry["match"], -1) + 1
        text = entry["replies"][min(place, len(entry["replies"]) - 1)]
        return Reply(status=500) if text == "__RAISE__" else Reply(content=text)

    return reply


def judged(run, model, replies):
    """(score, requests) of a run by a chat model that gives these replies, one question after the other."""
    with judge_server(by_question(replies)) as server:
        judge = OpenAICompatibleJudge(model, base_url=server.url, limits=PATIENT, name="chat")
        return score_run(run, judge, progress=False), server.requests


def test_llava_bench_is_reviewed_as_published(fixture, tmp_path):
    data = fixture("llava_bench")
    inputs, expected = data["inputs"], data["expected"]
    llava_bench(tmp_path / "llava-bench-in-the-wild", inputs)
    outputs = [one["text"] for one in inputs["ans2"]]
    prompts, found = asked("llava_bench", tmp_path, outputs, tmp_path / "run")
    assert [one["prompt"] for one in found] == [one["text"] for one in inputs["questions"]] and len(prompts) == 4
    score, requests = judged(tmp_path / "run", "gpt-4-0314", inputs["replies"])
    assert requests == expected["judge_calls"]
    stored = records(tmp_path / "run" / "judgements" / "chat.jsonl")
    reviews = {one["id"]: one for one in stored}
    for one in expected["review_records"]:
        review = reviews[str(one["question_id"])]
        assert (review["reply"], review["judgement"]) == (one["content"], one["tuple"])
    lines = [line.split() for line in expected["summary_lines"] if " " in line]
    assert len(lines) == 4
    for name, *numbers in lines:
        part = score.overall if name == "all" else score.group(name.removeprefix("llava_bench_"))
        values = [part.value(one) for one in ("relative_score", "reference_score", "answer_score")]
        # The published script averages a reply that cannot be read in, as -1.
        shown = [one.official.value if one.published is None else one.published for one in values]
        assert [round(one, 1) for one in shown] == list(map(float, numbers))
    assert score.overall.unreadable == 1
    assert read_score(tmp_path / "run", "chat") == score
    assert "relative_score" in str(score) and "1 unreadable verdict" in str(score)


def test_mm_vet_is_graded_as_published(fixture, tmp_path):
    data = fixture("mmvet")
    inputs, expected = data["inputs"], data["expected"]
    mm_vet(tmp_path / "mm-vet", inputs["metadata"])
    asked("mm_vet", tmp_path, list(inputs["predictions"].values()), tmp_path / "run")
    score, requests = judged(tmp_path / "run", "gpt-4-0613", inputs["replies"])
    assert requests[0] == expected["first_call"]
    assert [one["temperature"] for one in requests] == expected["temperatures"]
    assert len(requests) == expected["n_calls"]
    insisting = " | \nPredict the correctness of the answer (digit): "
    again = [one["messages"][0]["content"].endswith(insisting) for one in requests]
    assert again == [False, False, True, False, *[True] * 5, False]

    def shown(value):
        return f"{value.official.value if value.published is None else value.published:.1f}"

    for name, wanted in expected["capability_scores"].items():
        if name not in ("std", "runs"):
            assert shown(score.value("score" if name == "total" else name)) == wanted
    for name, wanted in expected["integration_scores"].items():
        if name not in ("total", "std", "runs"):
            assert shown(score.value("score", name)) == wanted
    assert score.overall.judge_failed == 1
    assert read_score(tmp_path / "run", "chat") == score
    written = {path.name.partition("0613-")[2]: path for path in write_back(Submission(tmp_path / "run"), "model")}
    grades = json.loads(written["grade-1runs.json"].read_text())
    assert {key: {**one, "model": [f"{one['model'][0]}-stub"]} for key, one in grades.items()} == expected["grades"]
    for name, wanted in (("cap-score", "capability_scores"), ("cap-int-score", "integration_scores")):
        [[empty, *names], [model, *values]] = csv.reader(written[f"{name}-1runs.csv"].open())
        assert (empty, model, dict(zip(names, values, strict=True))) == ("", "model", expected[wanted])
    assert "as published 60.00" in str(score) and "no know: none of 3 judgements is about it" in str(score)
