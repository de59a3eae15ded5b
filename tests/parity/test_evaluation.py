"""Zero-shot video QA as the published scripts do it: judge replies to scores, test set to prompts and records."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "evaluation"))

from judge_server import Reply, judge_server
from qa_sets import CHECKPOINT, records

from vidtune.data.sample import Turn
from vidtune.evaluation.benchmarks import get_benchmark
from vidtune.evaluation.judges.base import JudgeItem
from vidtune.evaluation.judges.openai_compatible import Limits, OpenAICompatibleJudge
from vidtune.evaluation.judges.replies import aggregate
from vidtune.evaluation.judging import judge_items
from vidtune.evaluation.official_results import combine, import_official_results
from vidtune.evaluation.predict import predict
from vidtune.evaluation.run_folder import Prediction
from vidtune.generation.settings import Answer, Request
from vidtune.systems import get_system

IMAGES_PER_VIDEO = 8
PATIENT = Limits(attempts=12, backoff=0.001, timeout=20)
BENCHMARKS = {"default": "msvd_qa", "activitynet": "activitynet_qa"}


def load(folder: Path, name: str):
    return json.loads((folder / "evaluation" / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def judge_fixture(parity_folder):
    return load(parity_folder, "judge_video_qa")


@pytest.fixture(scope="module")
def inference_fixture(parity_folder):
    return load(parity_folder, "video_qa_inference")


def canned(case):
    """Replies of one case; the last one repeats, ``__RAISE__`` is a failing server."""

    def reply(body, earlier):
        prompt = body["messages"][1]["content"]
        replies = next(entry["replies"] for entry in case["replies"] if entry["match"] in prompt)
        text = replies[min(earlier, len(replies) - 1)]
        return Reply(status=500) if text == "__RAISE__" else Reply(content=text)

    return reply


def run_judge(case, tmp_path):
    """(combined results, requests received) of one case, as the published script leaves them."""
    for name, content in case.get("preexisting", {}).items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    known = import_official_results(tmp_path)
    predictions = [
        Prediction(
            id=str(record["id"]),
            question=record["question"],
            answer=record["answer"],
            pred=record["pred"],
            index=n,
            video=str(n),
        )
        for n, record in enumerate(case["predictions"])
    ]
    pending: list[JudgeItem] = [item for item in judge_items(predictions) if item.id not in known]
    found = []
    with judge_server(canned(case)) as server:
        OpenAICompatibleJudge("gpt-3.5-turbo", base_url=server.url, limits=PATIENT).judge(pending, found.append)
    return combine(found, known), server.requests


def test_judge_results_and_scores_are_those_of_the_published_script(judge_fixture, tmp_path):
    for number, (case, expected) in enumerate(
        zip(judge_fixture["inputs"]["cases"], judge_fixture["expected"], strict=True)
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        results, requests = run_judge(case, folder)
        assert results == expected["results"]
        total = aggregate(result[0] for result in results.values())
        if "error" in expected:
            assert expected["error"].startswith("ZeroDivisionError")
            assert total.accuracy is None and "yes or no" in total.reason
        else:
            assert (total.yes, total.no) == (expected["yes_count"], expected["no_count"])
            assert total.accuracy == pytest.approx(expected["accuracy"], abs=1e-12)
            assert total.average_score == pytest.approx(expected["average_score"], abs=1e-12)
        ids = [record["id"] for record in case["predictions"]]
        if len(set(ids)) == len(ids):
            assert len(requests) == expected["n_judge_calls"]
        if "first_call_kwargs" in expected:
            assert expected["first_call_kwargs"] in requests


def test_repeated_ids_are_judged_once_with_the_last_text(judge_fixture, tmp_path):
    seen = False
    for case in judge_fixture["inputs"]["cases"]:
        ids = [record["id"] for record in case["predictions"]]
        last = {record["id"]: record["question"] for record in case["predictions"]}
        repeated = {name for name in ids if ids.count(name) > 1}
        if not repeated:
            continue
        seen = True
        _, requests = run_judge(case, tmp_path)
        asked = [request["messages"][1]["content"] for request in requests]
        for name in repeated - set(case.get("preexisting", {})):
            assert any(f"Question: {last[name]}\n" in prompt for prompt in asked)
    assert seen or len(judge_fixture["inputs"]["cases"]) == 0


class CannedEngine:
    """Gives the raw outputs to the questions in the order of the test set, whatever the order of asking."""

    def __init__(self, outputs: list[str]) -> None:
        self.outputs = outputs
        self.requests: list[Request] = []

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        asked = list(requests)
        self.requests = sorted(asked, key=lambda request: int(request.id))
        position = {request.id: n for n, request in enumerate(self.requests)}
        for request in asked:
            yield Answer(request.id, self.outputs[position[request.id]], (), "stop")


def write_inference_set(folder: Path, inputs, videos: str) -> Path:
    (folder / videos).mkdir(parents=True)
    for name in inputs["video_files"]:
        (folder / videos / name).touch()
    (folder / "test_q.json").write_text(json.dumps(inputs["questions"]))
    (folder / "test_a.json").write_text(json.dumps(inputs["answers"]))
    return folder


def test_files_prompts_and_records_are_those_of_the_published_script(inference_fixture, tmp_path):
    inputs = inference_fixture["inputs"]
    prompt_format = get_system("video_llava").prompts["llava_v1"]
    for number, (key, chunks) in enumerate(inference_fixture["expected"].items()):
        driver, marks, count = key.split("|")
        benchmark = get_benchmark(BENCHMARKS[driver])
        template = "<vid_start>{media}<vid_end>\n{question}" if marks.endswith("True") else "{media}\n{question}"
        protocol = benchmark.protocol(prompt_format="llava_v1", stop=prompt_format.stop).with_overrides(
            {"question_template": template}, "test"
        )
        data = write_inference_set(tmp_path / f"set{number}", inputs, benchmark.lookup.folder)
        questions = benchmark.load(data)
        assert len(chunks) == int(count.removeprefix("chunks="))
        for rank, expected in enumerate(chunks):
            engine = CannedEngine(inputs["raw_outputs"])
            run = tmp_path / f"run{number}"
            predict(
                engine, questions, protocol, run, checkpoint=CHECKPOINT, rank=rank, ranks=len(chunks), progress=False
            )
            name = "predictions.jsonl" if len(chunks) == 1 else f"predictions-{len(chunks)}_{rank}.jsonl"
            found = [
                {field: record[field] for field in ("id", "question", "answer", "pred")}
                for record in sorted(records(run / name), key=lambda record: record["index"])
            ]
            # The published driver restarts the answers in every chunk; here each question keeps its own.
            own = [inputs["answers"][int(request.id)]["answer"] for request in engine.requests]
            assert found == [
                {**record, "answer": answer} for record, answer in zip(expected["records"], own, strict=True)
            ]
            if rank == 0:
                assert found == expected["records"]
            assert [Path(request.media[0].path).name for request in engine.requests] == expected["videos_opened"]
            assert [
                "".join(piece.text for piece in prompt_format.render([Turn("user", text)], open_answer=True))
                for text in (
                    protocol.question_text(questions.questions[int(request.id)].question, "<image>" * IMAGES_PER_VIDEO)
                    for request in engine.requests
                )
            ] == expected["prompts"]
            asked_for = expected["generate_kwargs"]
            assert protocol.generation.max_new_tokens == asked_for["max_new_tokens"]
            greedy = not asked_for["do_sample"] or asked_for["temperature"] == 0
            assert protocol.generation.do_sample == (not greedy)
