"""Questions about more than their video: further media, a second question, answers that several questions share."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from qa_sets import StubEngine, quiet_predict, stub_protocol, write_set

from vidtune.data.sample import MediaRef
from vidtune.evaluation.question import Question, QuestionSet
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.registry import BENCHMARKS


@pytest.fixture
def asked(tmp_path):
    """(a set of two questions about two videos, its protocol)"""
    data = write_set(tmp_path / "set", [("a", "question 0?", "x"), ("b", "question 1?", "y")])
    return BENCHMARKS["msvd_qa"].load(data), stub_protocol()


def changed(questions: QuestionSet, *changes: dict) -> QuestionSet:
    both = zip(questions.questions, changes, strict=True)
    return replace(questions, questions=tuple(replace(question, **change) for question, change in both))


def run(asked, questions, folder, engine=None, **options):
    engine = engine or StubEngine()
    quiet_predict(engine, questions, asked[1], folder, **options)
    return engine, [one.record() for one in RunFolder(folder).predictions()]


def test_further_media_follow_the_video(asked, tmp_path):
    box = MediaRef("box", "frames/a", extras=(("boxes", ((1.0, 2.0, 3.0, 4.0),)),))
    engine, _ = run(asked, changed(asked[0], {"media": (box,)}, {}), tmp_path / "run")
    first, second = engine.asked
    assert [ref.stream for ref in first.media] == ["video", "box"] and [ref.stream for ref in second.media] == ["video"]
    assert first.media[1] == replace(box, path=str(asked[0].folder / "frames/a"))


def test_a_question_with_the_answer_of_another_is_not_asked(asked, tmp_path):
    [one, other] = asked[0].questions
    again = replace(one, index=2, id="again", type="kind", asked_as=0)
    questions = replace(asked[0], questions=(one, other, again))
    engine, found = run(asked, questions, tmp_path / "run")
    assert engine.questions == ["question 0?", "question 1?"]
    assert {record["index"]: record["pred"] for record in found} == {0: "answer 0", 1: "answer 1", 2: "answer 0"}
    # Alone it is asked as the first one would be: the id of a request is part of the seed of sampling.
    run(asked, questions, tmp_path / "stopped")
    kept = [line for line in (tmp_path / "stopped" / "predictions.jsonl").open() if '"again"' not in line]
    (tmp_path / "stopped" / "predictions.jsonl").write_text("".join(kept))
    engine, found = run(asked, questions, tmp_path / "stopped")
    assert [request.id for request in engine.asked] == ["0"] and found[-1]["pred"] == "answer 0"


def test_processes_ask_a_question_that_shares_its_answer_once(asked, tmp_path):
    [one, other] = asked[0].questions
    copies = [replace(one, index=2 + n, id=str(n), asked_as=n % 2) for n in range(4)]
    questions = replace(asked[0], questions=(one, other, *copies))
    asked_by = [run(asked, questions, tmp_path / "run", rank=rank, ranks=3)[0].questions for rank in range(3)]
    assert asked_by == [["question 0?", "question 1?"], [], []]  # the first takes up what nobody else has begun
    assert len(RunFolder(tmp_path / "run").predictions()) == 6


class OutOfOrder(StubEngine):
    """Answers second questions first."""

    def answer(self, requests) -> Iterator:
        yield from super().answer(sorted(requests, key=lambda request: request.id, reverse=True))


def test_a_second_question_is_asked_on_its_own_and_stored_with_the_first(asked, tmp_path):
    questions = changed(asked[0], {"second": "question 7?"}, {})
    for number, engine in enumerate((StubEngine(), OutOfOrder())):
        engine, found = run(asked, questions, tmp_path / str(number), engine)
        [first] = [record for record in found if record["index"] == 0]
        assert sorted(engine.questions) == ["question 0?", "question 1?", "question 7?"]
        assert first["pred"] == "answer 0" and first["second"] == {
            "question": "question 7?",
            "pred": "answer 7",
            "finish_reason": "eos",
        }
        assert "second" not in next(record for record in found if record["index"] == 1)


def test_where_one_of_both_fails_the_question_has_failed(asked, tmp_path):
    class SecondFails(StubEngine):
        def answer(self, requests) -> Iterator:
            for answer in super().answer(requests):
                yield replace(answer, error="broken") if answer.id.endswith("second") else answer

    questions = changed(asked[0], {"second": "question 7?"}, {})
    _, found = run(asked, questions, tmp_path / "run", SecondFails())
    [first] = [record for record in found if record["index"] == 0]
    assert (first["pred"], first["error"], first["finish_reason"]) == ("", "broken", "error")


def test_questions_without_these_are_stored_as_before(asked, tmp_path):
    question = Question(0, "id", "a", "a.mp4", "what?", "this")
    assert not (question.media or question.second or question.judge_prompt) and question.asked_as is None
    _, found = run(asked, asked[0], tmp_path / "run")
    assert not {"second", "judge_prompt"} & {key for record in found for key in record}
