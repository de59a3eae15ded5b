"""Evaluation as the published scripts do it.

Zero-shot video QA: judge replies to scores, test set to prompts and records. Captions and intervals: the metrics,
those by METEOR where its program is installed. Multiple choice: letters in answers, prompts, shares of right answers.
Events and subtitles of long videos: prompts, reading of answers.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from event_sets import event_protocol
from judge_server import Reply, judge_server
from published_scores import aggregate
from qa_sets import quiet_predict, records

from vidtune.data.sample import Turn
from vidtune.evaluation.benchmarks.measured import Item
from vidtune.evaluation.benchmarks.multiple_choice import longvideobench
from vidtune.evaluation.benchmarks.multiple_choice.subtitles import frame_times, lines_at
from vidtune.evaluation.benchmarks.temporal_grounding.reading import first_pair, first_pair_of_sentences
from vidtune.evaluation.judges.base import JudgeItem, Judgement
from vidtune.evaluation.judges.openai_compatible import Limits, OpenAICompatibleJudge
from vidtune.evaluation.metrics import choices
from vidtune.evaluation.metrics.bleu import bleu
from vidtune.evaluation.metrics.cider import cider
from vidtune.evaluation.metrics.dense_captions import (
    Truth,
    merge_neighbours,
    read_events,
    score_dense_captions,
)
from vidtune.evaluation.metrics.grounding import interval_iou, parse_interval, score_grounding
from vidtune.evaluation.metrics.programs.java import TOKENIZER_JAR, java_problem
from vidtune.evaluation.metrics.programs.meteor import Meteor, meteor_problem
from vidtune.evaluation.metrics.rouge import rouge_l
from vidtune.evaluation.metrics.segment_captions import score_segment_captions
from vidtune.evaluation.metrics.soda import TimedSentence, best_matching, event_iou, soda_c
from vidtune.evaluation.metrics.tokenizer import tokenize
from vidtune.evaluation.question import Prediction, prediction_of, question_text
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.judgements import judge_items, store_judgements
from vidtune.evaluation.runs.official_log import import_log
from vidtune.evaluation.runs.official_results import import_official_results, texts_of
from vidtune.evaluation.scores.scoring import NothingScoredError, score_run
from vidtune.generation.settings import Answer, Request
from vidtune.registry import BENCHMARKS, SYSTEMS

IMAGES_PER_VIDEO = 8
PATIENT = Limits(attempts=12, backoff=0.001, timeout=20)
DRIVERS = {"default": "msvd_qa", "activitynet": "activitynet_qa"}


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


def combined(judgements, imported=()):
    """The file of all results that the published script writes: id -> judgement and texts, without unjudged items."""
    known = {one.id: [one.judgement, dict(one.texts)] for one in imported}
    return known | {one.item.id: [one.value, texts_of(one.item)] for one in judgements if one.error is None}


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
    return combined(found, known.values()), server.requests


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
            assert total.accuracy is None
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


ASPECT_LISTS = {"consistency": "consistency_qa.json", "temporal": "temporal_qa.json"}


def write_aspect_set(folder, aspect, asked):
    """A test set whose only questions are those of one aspect."""
    (folder / "Test_Videos").mkdir(parents=True)
    for name in ("generic_qa.json", "temporal_qa.json", "consistency_qa.json"):
        mine = name == ASPECT_LISTS.get(aspect, "generic_qa.json")
        (folder / name).write_text(json.dumps(asked if mine else []))
    for record in asked:
        (folder / "Test_Videos" / f"{record['video_name']}.mp4").touch()
    return folder


def aspect_run(folder, aspect, asked, benchmark="video_chatgpt"):
    """A run whose answers are those of a case."""
    known = [record[key] for record in asked for key in ("pred", "pred1", "pred2") if key in record]
    test_set = BENCHMARKS[benchmark]
    questions = test_set.load(write_aspect_set(folder / "set", aspect, asked))
    protocol = test_set.protocol(prompt_format="llava_v1", stop=("</s>",))
    quiet_predict(CannedEngine(known), questions, protocol, folder / "run")
    return RunFolder(folder / "run")


def aspect_cases(folder):
    """(aspect, name of the benchmark, predictions, canned replies, what is expected)"""
    fixture = load(folder, "judge_video_chatgpt_benchmark")
    for case, expected in zip(fixture["inputs"]["cases"], fixture["expected"], strict=True):
        for name, wanted in expected.items():
            aspect, _, variant = name.partition("_")
            yield aspect, "video_chatgpt_q1_twice" if variant else "video_chatgpt", case, wanted


def test_aspects_are_asked_judged_and_scored_as_published(parity_folder, tmp_path):
    for number, (aspect, benchmark, case, expected) in enumerate(aspect_cases(parity_folder)):
        run = aspect_run(tmp_path / str(number), aspect, case["predictions"], benchmark)
        kinds = {prediction.type for prediction in run.predictions()}
        assert kinds == ({aspect} if aspect in ASPECT_LISTS else {"correctness", "detail", "context"})
        found: list[Judgement] = []
        with judge_server(canned(case)) as server:
            judge = OpenAICompatibleJudge("gpt-3.5-turbo", base_url=server.url, limits=PATIENT)
            mine = [item for item in judge_items(run.predictions()) if item.prompt.startswith(aspect)]
            judge.judge(mine, found.append)
        assert expected["first_call_kwargs"] in server.requests
        assert len(server.requests) == expected["n_judge_calls"]
        store_judgements(run.path, judge.name, judge.identity, {one.item.id: one.value for one in found})
        if "error" in expected:  # there a score that is no integer ends the evaluation
            with pytest.raises(NothingScoredError, match="1 unreadable verdict"):
                score_run(run.path, judge.name)
            continue
        results = {one.removeprefix(f"{aspect}/"): value for one, value in combined(found).items()}
        if benchmark.endswith("twice"):  # the script stores what it shows the judge; here what was asked is stored
            results = {one: [value, texts | {"q2": texts["q1"]}] for one, (value, texts) in results.items()}
        assert results == expected["results"]
        average = score_run(run.path, judge.name, progress=False).value("average_score", aspect)
        assert average.official.value == pytest.approx(expected["average_score"], abs=1e-12)


class CannedEngine:
    """Gives the raw outputs to the questions in the order of the test set, whatever the order of asking."""

    def __init__(self, outputs: list[str]) -> None:
        self.outputs = outputs
        self.requests: list[Request] = []

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        asked = list(requests)
        self.requests = sorted(asked, key=lambda request: (int(request.id.partition("-")[0]), request.id))
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
    prompt_format = SYSTEMS["video_llava"].dialect.prompts["llava_v1"].with_eos("</s>")
    for number, (key, chunks) in enumerate(inference_fixture["expected"].items()):
        driver, marks, count = key.split("|")
        benchmark = BENCHMARKS[DRIVERS[driver]]
        template = "<vid_start>{media}<vid_end>\n{question}" if marks.endswith("True") else "{media}\n{question}"
        protocol = benchmark.protocol(prompt_format="llava_v1", stop=prompt_format.stop).with_overrides(
            {"question_template": template}, "test"
        )
        data = write_inference_set(tmp_path / f"set{number}", inputs, benchmark.lookup.folder)
        questions = benchmark.load(data)
        assert len(chunks) == int(count.removeprefix("chunks="))
        size = -(-len(questions.questions) // len(chunks))
        for rank, expected in enumerate(chunks):
            if "error" in expected:  # the published script has no such chunk
                assert expected["error"] == "IndexError"
                continue
            engine, run = CannedEngine(inputs["raw_outputs"]), tmp_path / f"run{number}_{rank}"
            part = replace(questions, questions=questions.questions[rank * size :][:size])
            quiet_predict(engine, part, protocol, run)
            mine = sorted(records(run / "predictions.jsonl"), key=lambda record: record["index"])
            asked = engine.requests
            found = [{field: record[field] for field in ("id", "question", "answer", "pred")} for record in mine]
            # The published driver restarts the answers in every chunk; here each question keeps its own.
            own = [inputs["answers"][int(request.id)]["answer"] for request in asked]
            assert found == [
                {**record, "answer": answer} for record, answer in zip(expected["records"], own, strict=True)
            ]
            if rank == 0:
                assert found == expected["records"]
            assert [Path(request.media[0].path).name for request in asked] == expected["videos_opened"]
            assert [
                "".join(piece.text for piece in prompt_format.render([Turn("user", text)], open_answer=True))
                for text in (
                    protocol.question_text(questions.questions[int(request.id)].question, "<image>" * IMAGES_PER_VIDEO)
                    for request in asked
                )
            ] == expected["prompts"]
            asked_for = expected["generate_kwargs"]
            assert protocol.generation.max_new_tokens == asked_for["max_new_tokens"]
            greedy = not asked_for["do_sample"] or asked_for["temperature"] == 0
            assert protocol.generation.do_sample == (not greedy)


@pytest.fixture(scope="module")
def meteor():
    """The metric, by one process for all tests."""
    problem = meteor_problem()
    if problem:
        pytest.skip(f"METEOR: {problem}")
    with Meteor() as running:
        yield running.scores


def caption_cases(folder):
    fixture = load(folder, "caption_metrics")
    return list(zip(fixture["inputs"]["cases"], fixture["expected"], strict=True))


def test_caption_metrics_are_those_of_pycocoevalcap(parity_folder):
    for _, expected in caption_cases(parity_folder):
        references, predictions = expected["tokenized_references"], expected["tokenized_predictions"]
        scores = [*bleu(references, predictions), rouge_l(references, predictions), cider(references, predictions)]
        for name, found in zip(["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"], scores, strict=True):
            assert found.value == pytest.approx(expected[name]["corpus"], rel=1e-9, abs=1e-15), name
            assert found.per_item == pytest.approx(expected[name]["per_item"], rel=1e-9, abs=1e-15), name


def test_meteor_is_that_of_pycocoevalcap(parity_folder, meteor):
    for _, expected in caption_cases(parity_folder):
        found = meteor(expected["tokenized_references"], expected["tokenized_predictions"])
        assert found.value == pytest.approx(expected["METEOR"]["corpus"], abs=1e-9)
        assert found.per_item == pytest.approx(expected["METEOR"]["per_item"], abs=1e-9)


@pytest.mark.parametrize("tokenizer", ["ptb", "java"])
def test_captions_are_tokenised_as_by_the_treebank_tokenizer(parity_folder, tokenizer):
    problem = java_problem(TOKENIZER_JAR) if tokenizer == "java" else None
    if problem:
        pytest.skip(f"tokenizer {tokenizer}: {problem}")
    fixture = load(parity_folder, "ptb_tokenizer")
    captions = fixture["inputs"]["captions"]
    assert tokenize(captions, tokenizer) == fixture["expected"]["batched"]
    assert [tokenize([caption], tokenizer)[0] for caption in captions] == fixture["expected"]["one_by_one"]
    for case, expected in caption_cases(parity_folder):
        assert tokenize(case["predictions"], tokenizer) == expected["tokenized_predictions"]
        listed = [text for texts in case["references"] for text in texts]
        wanted = [text for texts in expected["tokenized_references"] for text in texts]
        assert tokenize(listed, tokenizer) == wanted


def test_interval_overlaps_and_matchings_are_those_of_soda(parity_folder):
    fixture = load(parity_folder, "soda")
    for (first, second), expected in zip(fixture["inputs"]["iou_pairs"], fixture["expected"]["iou"], strict=True):
        found = event_iou([TimedSentence(*first, "")], [TimedSentence(*second, "")])
        assert found.tolist() == [[pytest.approx(expected, abs=1e-12)]]
    for matrix, expected in zip(fixture["inputs"]["matrices"], fixture["expected"]["dp"], strict=True):
        assert best_matching(np.array(matrix, dtype=float)) == pytest.approx(expected["max_score"], abs=1e-12)


def events_of(record):
    times = zip(record["timestamps"], record["sentences"], strict=True)
    return tuple(TimedSentence(start, end, sentence) for (start, end), sentence in times)


def plain(text):
    return tokenize(["".join(char if char.isascii() else " " for char in text)])[0]


def test_soda_c_is_that_of_the_published_scorer(parity_folder, meteor):
    fixture = load(parity_folder, "soda")
    for case, expected in zip(fixture["inputs"]["cases"], fixture["expected"]["soda"], strict=True):
        both = [video for video in case["predictions"] if video in case["ground_truth"]]
        predicted = [
            [TimedSentence(*event["timestamp"], plain(event["sentence"])) for event in case["predictions"][video]]
            for video in both
        ]
        truths = [
            [
                TimedSentence(event.start, event.end, plain(event.sentence))
                for event in events_of(case["ground_truth"][video])
            ]
            for video in both
        ]
        videos = soda_c(predicted, truths, meteor)
        wanted = expected["soda_c"]
        assert np.mean([video.precision for video in videos]) == pytest.approx(wanted["precision"], abs=1e-9)
        assert np.mean([video.recall for video in videos]) == pytest.approx(wanted["recall"], abs=1e-9)
        assert np.mean([video.f1 for video in videos]) == pytest.approx(expected["eval_soda"]["soda_c"], abs=1e-9)


def test_grounding_answers_are_read_and_scored_as_published(parity_folder):
    fixture = load(parity_folder, "longvale_grounding")
    answers, truths = {}, {}
    for number, (answer, truth) in enumerate(fixture["inputs"]["answers"]):
        answers[number], truths[number] = answer, tuple(truth)
        interval = parse_interval(answer)
        found = round(interval_iou(interval, tuple(truth)), 2) if interval else 0
        assert found == pytest.approx(fixture["expected"]["iou"][number], abs=1e-12), answer
    scores = score_grounding(dict(reversed(answers.items())), truths)
    assert scores.metrics["mIoU"].per_item == pytest.approx(fixture["expected"]["iou"], abs=1e-12)
    for name, expected in fixture["expected"]["metrics"].items():
        assert scores.metrics[name].value * 100 == pytest.approx(expected, abs=1e-9), name
    assert score_grounding({}, truths).metrics["mIoU"].value is fixture["expected"]["metrics_empty"] is None


def test_neighbours_are_merged_as_published(parity_folder):
    fixture = load(parity_folder, "longvale_dense_captioning")
    for events, expected in zip(fixture["inputs"]["merge"], fixture["expected"]["merge"], strict=True):
        assert merge_neighbours([as_event(event) for event in events]) == [as_event(event) for event in expected]


def as_event(record):
    return TimedSentence(*record["timestamp"], record["sentence"])


def dense_cases(folder):
    """(answers, truths, expected) of each case; a later record of a video replaces an earlier one."""
    fixture = load(folder, "longvale_dense_captioning")
    for case, expected in zip(fixture["inputs"]["cases"], fixture["expected"]["cases"], strict=True):
        truths = {video: Truth(record["duration"], events_of(record)) for video, record in case["annotations"].items()}
        answers = {log["video_id"]: log["answer"] for log in case["logs"] if log["task"] == "captioning"}
        yield answers, truths, expected


def test_dense_captions_are_read_as_published(parity_folder):
    for answers, truths, expected in dense_cases(parity_folder):
        for video, events in (expected["predictions_after_parsing"] or {}).items():
            found = read_events(answers[video], truths[video].duration)
            assert [event.sentence for event in found] == [event["sentence"] for event in events]
            for event, wanted in zip(found, events, strict=True):
                assert (event.start, event.end) == pytest.approx(tuple(wanted["timestamp"]), abs=1e-9)


def check_dense(found, expected, without=()):
    for name, value in expected["eval_dvc_all"].items():
        if name not in without:
            assert found.metrics[name].value == pytest.approx(value, rel=1e-9, abs=1e-15), name


def test_dense_captions_score_as_published(parity_folder):
    for answers, truths, expected in dense_cases(parity_folder):
        found = score_dense_captions(dict(reversed(answers.items())), dict(reversed(truths.items())))
        if "error" in expected:  # there a stranger among the answers ends the evaluation
            assert found.unknown and not set(found.unknown) & set(truths)
            continue
        assert set(found.ids) == set(answers) and set(found.missing) == set(truths) - set(answers)
        check_dense(found, expected, without=["METEOR"])


def test_dense_captions_score_as_published_with_meteor(parity_folder, meteor):
    for answers, truths, expected in dense_cases(parity_folder):
        if "error" in expected:
            continue
        found = score_dense_captions(answers, truths, meteor=meteor)
        check_dense(found, expected)
        for name, value in expected["metrics_percent"].items():
            ours = {"soda_c": "SODA_c"}.get(name, name)
            assert found.metrics[ours].value * 100 == pytest.approx(value, abs=1e-7), name


def check_segments(folder, scorer, names):
    fixture = load(folder, "longvale_segment_captioning")
    for case, expected in zip(fixture["inputs"]["cases"], fixture["expected"], strict=True):
        logs = [log for log in case["logs"] if log["task"] == "seg_captioning"]
        answers = {(log["video_id"], log["info"]["sentence_id"]): log["answer"] for log in logs}
        references = {
            (video, number): sentence
            for video, record in case["annotations"].items()
            for number, sentence in enumerate(record["sentences"])
        }
        found = score_segment_captions(answers, references, meteor=scorer)
        asked = [one for one in references if one[0] in {video for video, _ in answers}]
        if list(answers) == asked:  # only then the published pairing, by position, pairs what belongs together
            for name in names:
                assert found.metrics[name].value == pytest.approx(expected[name], rel=1e-9, abs=1e-15), name
        else:
            ordered = score_segment_captions(
                {one: answers[one] for one in asked if one in answers}, references, meteor=scorer
            )
            for name in names:
                assert found.metrics[name].value == ordered.metrics[name].value
        if "error" in expected:
            assert set(asked) & set(found.missing)


def test_segment_captions_score_as_published(parity_folder):
    check_segments(parity_folder, None, ["BLEU4", "Rouge", "CIDEr"])


def test_segment_captions_score_as_published_with_meteor(parity_folder, meteor):
    check_segments(parity_folder, meteor, ["BLEU4", "METEOR", "Rouge", "CIDEr"])


def write_targets(folder, logged):
    """A test set with the questions that a log answers."""
    questions = {(record["video_name"], record["groundtruth"]): None for record in logged}
    (folder / "frames").mkdir(parents=True)
    entry = {"frame_path": "frames", "frame_id": ["1.jpg"], "track_list": [[0, 0, 8, 8]]}
    listed = [{**entry, "video_name": name, "caption": caption} for name, caption in questions]
    (folder / "hc_stvg_val.json").write_text(json.dumps(listed))
    return folder


def target_cases(folder):
    fixture = load(folder, "videoref_bench")
    return list(zip(fixture["inputs"]["cases"], fixture["expected"], strict=True))


def test_captions_of_targets_score_as_published(parity_folder, tmp_path):
    names = {f"Bleu_{order}": f"BLEU{order}" for order in (1, 2, 3, 4)} | {"ROUGE_L": "Rouge"}
    for number, (case, expected) in enumerate(target_cases(parity_folder)):
        data = write_targets(tmp_path / str(number), case["records"])
        log = data / f"2_0.{case['ext']}"  # a part of a log has the suffix of JSON, whatever its form
        as_list = case["ext"] == "json" and number % 2
        log.write_text(json.dumps(case["records"]) if as_list else "".join(map(as_line, case["records"])))
        run = import_log(log, "videoref_bench", data, data / "run")
        if "error" in expected:  # there a record without an answer ends the evaluation
            with pytest.raises(NothingScoredError, match="the log holds no text as its answer"):
                score_run(run.path, progress=False)
            continue
        group = score_run(run.path, progress=False).group("target")
        assert group.scored == expected["ultimate_video_number"]
        assert group.scored + group.excluded == expected["input_video_number"]
        for name, value in expected["printed_final"].items():
            found = group.value(names.get(name, name)).official
            if found is None:
                assert name == "METEOR" and meteor_problem()
            else:
                assert round(found.value / 100, 3) == pytest.approx(value, abs=1e-9), name


def as_line(record):
    return json.dumps(record) + "\n"


@pytest.fixture(scope="module")
def choices_fixture(parity_folder):
    return load(parity_folder, "mcq_scoring")


RULES = {
    "videomme_extract": lambda text, options: choices.first_capital(text, options) or "",
    "lmms_eval_0_7_2_extract_ABCD": lambda text, options: choices.ranked(text, options) or "",
    "lmms_eval_0_7_2_extract_default": lambda text, options: choices.ranked_among(choices.EIGHT, text) or "",
    "perceptiontest": lambda text, options: "ABCD".find(choices.standing(text, options) or "?"),
    "longvideobench_parse": lambda text, options: choices.written_out(text, options) or "RANDOM",
}


@pytest.mark.parametrize("rule", RULES)
def test_letters_are_read_as_published(choices_fixture, rule):
    texts, options = (choices_fixture["inputs"][name] for name in ("texts", "lvb_options"))
    assert [RULES[rule](text, options) for text in texts] == choices_fixture["expected"][rule]


def test_letters_of_mvbench_are_compared_as_published(choices_fixture):
    for letter, answer, right in choices_fixture["expected"]["mcq_acc"]:
        assert (choices.normalised(answer, ()) == letter) == bool(right), (letter, answer)


def chosen(entries):
    """(options, place or letter of the right one, answer) as items of one task."""
    truths = [
        (options, right if right is None or isinstance(right, str) else "ABCDE"[right]) for options, right, _ in entries
    ]
    return [
        Item(index, str(index), f"v{index}", "", {"letter": letter, "options": options}, answer)
        for index, ((options, letter), (*_, answer)) in enumerate(zip(truths, entries, strict=True))
    ]


def share(items, name):
    official = BENCHMARKS[name].measure(items).official[""]
    top, bottom = official.metrics["accuracy"].statistics.sum(0)
    return top / bottom


def test_shares_of_right_answers_are_those_published(choices_fixture):
    inputs, expected = choices_fixture["inputs"], choices_fixture["expected"]
    places = [
        entry["candidates"].index(entry["answer"]) if entry["answer"] in entry["candidates"] else None
        for entry, _ in inputs["mvbench"]
    ]
    items = chosen(
        [(entry["candidates"], place, answer) for place, (entry, answer) in zip(places, inputs["mvbench"], strict=True)]
    )
    assert [item.reference["letter"] for item in items] == [one["gt_answer"] for one in expected["mvbench_records"]]
    for name in ("mvbench", "mvbench_lmms_eval", "mlvu", "lvbench"):
        assert 100 * share(items, name) == expected["mvbench_accuracy"]
    asked = [(["x", "y", "z"], int(entry["answer_id"]), answer) for entry, answer in inputs["perceptiontest"]]
    assert share(chosen(asked), "perception_test") == expected["perceptiontest_accuracy"]


def prompts(name, docs):
    protocol = BENCHMARKS[name].protocol(prompt_format="").model_copy(update={"question_template": "{question}"})
    return [protocol.question_text(one["question"], options=one["candidates"]) for one in docs]


PROMPTS = {"mvbench": "mvbench", "mlvu": "mlvu", "lvbench": "lvbench", "perception_test": "perceptiontest"}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_of_multiple_choice_are_those_published(parity_folder, name):
    found = load(parity_folder, "videochat_flash_prompts")
    assert prompts(name, found["inputs"]["mc_docs"]) == found["expected"][PROMPTS[name]]


# Long videos: seconds of an event, prompts with subtitles.

CHARADES = ("charades_sta", "charades_sta_lmms_eval")
THRESHOLDS = {"R1@0.3": "3", "R1@0.5": "5", "R1@0.7": "7"}


def both(folder: Path, name: str):
    """Inputs of a fixture, and what the published scripts made of them."""
    fixture = load(folder, name)
    return fixture["inputs"], fixture["expected"]


@pytest.mark.parametrize(
    ("read", "rule"),
    [(first_pair, "videochat"), (first_pair_of_sentences, "lmms_eval_0_7_2")],
    ids=["fork", "lmms_eval"],
)
def test_times_in_answers_are_read_as_published(parity_folder, read, rule):
    inputs, expected = both(parity_folder, "temporal_grounding_charades")
    for text, wanted in zip(inputs["texts"], expected[f"{rule}_extract_time"], strict=True):
        # Where the published script ends with an error, there is no pair.
        pairs = [] if isinstance(wanted, dict) else wanted
        assert read(text) == (tuple(pairs[0]) if pairs else None), text


def test_overlap_of_seconds_is_the_published_one(parity_folder):
    inputs, expected = both(parity_folder, "temporal_grounding_charades")
    for (first, second), wanted in zip(inputs["iou_pairs"], expected["iou"], strict=True):
        found = interval_iou(tuple(first), tuple(second))
        assert found == pytest.approx(0 if isinstance(wanted, dict) else wanted, abs=1e-12)


def charades_items(benchmark, inputs, folder):
    (folder / "charades_sta_test.json").write_text(json.dumps([doc for doc, _ in inputs["docs"]]))
    questions = benchmark.load(folder).questions
    answers = [answer for _, answer in inputs["docs"]]
    items = [
        Item(one.index, one.id, one.video, one.type, one.reference, answer)
        for one, answer in zip(questions, answers, strict=True)
    ]
    return questions, items


@pytest.mark.parametrize("name", CHARADES)
def test_charades_asks_and_scores_as_published(parity_folder, tmp_path, name):
    inputs, expected = both(parity_folder, "temporal_grounding_charades")
    benchmark = BENCHMARKS[name]
    questions, items = charades_items(benchmark, inputs, tmp_path)
    protocol = event_protocol(name)
    assert [question_text(one, protocol, media="") for one in questions] == [
        f"\n{prompt}" for prompt in expected["prompts"]
    ]
    found = benchmark.measure(items).official["grounding"]
    assert len(found.ids) == len(expected["submission"])
    answered = [prediction_of(one, protocol, item.pred) for one, item in zip(questions, items, strict=True)]
    [(_, submission)] = benchmark.official_files(answered, {item.index: item.reference for item in items})
    assert json.loads(submission) == expected["submission"]
    assert protocol.generation.max_new_tokens == 50 and not protocol.generation.do_sample
    for metric, digit in THRESHOLDS.items():
        wanted = expected["videochat_report"][f"IOU 0.{digit}"], expected[f"lmms_eval_0_7_2_iou{digit}"]
        assert found.metrics[metric].value * 100 == pytest.approx(wanted[CHARADES.index(name)], abs=1e-9)
    assert found.metrics["mIoU"].value * 100 == pytest.approx(expected["lmms_eval_0_7_2_miou"], abs=1e-9)


def worded(name, folder):
    """The prompts of a benchmark, without what the system puts before them."""
    protocol = event_protocol(name, question_template="{media}{question}")
    return [question_text(one, protocol, media="") for one in BENCHMARKS[name].load(folder).questions]


def video_mme(folder, documents, subtitles):
    letters = "ABCD"
    entries = [
        {
            "question_id": str(number),
            "videoID": f"v{number}",
            "duration": "long",
            "question": document["question"],
            "options": [f"{letter}. {one}" for letter, one in zip(letters, document["candidates"], strict=False)],
            "answer": "A",
        }
        for number, document in enumerate(documents)
    ]
    (folder / "subtitle").mkdir(parents=True)
    (folder / "videomme.jsonl").write_text("\n".join(json.dumps(entry) for entry in entries))
    for number, text in enumerate(subtitles):
        if text is not None:
            (folder / "subtitle" / f"v{number}.srt").write_text(text)
    return folder


def test_video_mme_is_worded_as_published(parity_folder, tmp_path):
    inputs, expected = both(parity_folder, "videochat_flash_prompts")
    assert worded("video_mme", video_mme(tmp_path / "a", inputs["mc_docs"], ())) == expected["videomme"]
    in_turn = [inputs["mc_docs"][number % len(inputs["mc_docs"])] for number in range(len(inputs["srt"]))]
    found = worded("video_mme_subtitles", video_mme(tmp_path / "b", in_turn, inputs["srt"]))
    assert found == expected["videomme_w_subtitle"]


def test_frames_whose_subtitles_are_taken_are_those_published(parity_folder):
    inputs, expected = both(parity_folder, "videochat_flash_prompts")
    assert [frame_times(*given) for given in inputs["frame_ts"]] == expected["longvideobench_frame_timestamps"]


def test_longvideobench_is_worded_as_published(parity_folder, tmp_path, monkeypatch):
    inputs, expected = both(parity_folder, "videochat_flash_prompts")
    for number, (given, lines) in enumerate(zip(inputs["lvb_sub"], expected["longvideobench_subtitles"], strict=True)):
        folder = tmp_path / str(number)
        (folder / "subtitles").mkdir(parents=True)
        (folder / "subtitles" / "v_en.json").write_text(json.dumps(given["subtitles"]))
        times = frame_times(given["duration"], given["max_num_frames"])
        path = folder / "subtitles" / "v_en.json"
        assert "\n".join(lines_at(path, times, given["start"], given["duration"])) == lines
        options = {f"option{place}": text for place, text in enumerate([*given["options"], "N/A", "N/A"])}
        document = {
            "id": "v_0",
            "video_path": "v.mp4",
            "subtitle_path": "v.json",
            "duration": given["duration"],
            "starting_timestamp_for_subtitles": given["start"],
            "duration_group": 15,
            "question": given["question"],
            "correct_choice": 0,
            **options,
        }
        (folder / "lvb_val.json").write_text(json.dumps([document]))
        monkeypatch.setattr(longvideobench, "FRAMES", given["max_num_frames"])
        assert worded("longvideobench", folder) == [expected["longvideobench_prompt"][number]]
