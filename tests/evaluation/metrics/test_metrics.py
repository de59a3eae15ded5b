"""The offline metrics where the published numbers have no case: nothing to score, answers that miss, odd text."""

import time

import numpy as np
import pytest

from vidtune.errors import UserError
from vidtune.evaluation.metrics.bleu import bleu, bleu4
from vidtune.evaluation.metrics.cider import cider
from vidtune.evaluation.metrics.dense_captions import (
    GARBAGE,
    Truth,
    merge_neighbours,
    parse_events,
    read_events,
    score_dense_captions,
)
from vidtune.evaluation.metrics.grounding import interval_iou, parse_interval, score_grounding
from vidtune.evaluation.metrics.rouge import rouge_l
from vidtune.evaluation.metrics.segment_captions import score_segment_captions
from vidtune.evaluation.metrics.soda import Soda, TimedSentence, best_matching, event_iou, soda_c

REFERENCES = [["a man rides a brown horse"], ["two dogs play", "the dogs are playing"], ["he opens the door"], ["rain"]]
PREDICTIONS = ["a man rides a horse", "two dogs are playing with a ball", "", "snow falls"]
METRICS = [bleu4, rouge_l, cider]
EVENTS = (
    TimedSentence(0, 20, "A man walks in."),
    TimedSentence(20, 60, "He talks to a woman."),
    TimedSentence(55, 100, "They leave."),
)
TRUTHS = {
    "v1": Truth(100, EVENTS),
    "v2": Truth(30, (TimedSentence(0, 10, "A car stops."), TimedSentence(10, 30, "A dog barks."))),
}
GOOD = "From 00 to 19, A man walks in.\nFrom 20 to 59, He talks to a woman.\nFrom 55 to 99, They leave."


@pytest.mark.parametrize("metric", METRICS)
def test_no_items_have_no_value(metric):
    scores = metric([], [])
    assert scores.value is None and len(scores.per_item) == len(scores.statistics) == 0


@pytest.mark.parametrize("metric", METRICS)
def test_every_prediction_needs_references(metric):
    with pytest.raises(ValueError, match="1 items have references, 2 have a prediction"):
        metric([["a"]], ["a", "b"])
    with pytest.raises(ValueError, match="item 1 has no reference"):
        metric([["a"], []], ["a", "b"])


@pytest.mark.parametrize("number", range(4))
def test_bleu_of_any_items_follows_from_their_statistics(number):
    whole = bleu(REFERENCES, PREDICTIONS)[number]
    for chosen in ([0], [1, 3], [0, 0, 2], [2, 2]):
        alone = bleu([REFERENCES[n] for n in chosen], [PREDICTIONS[n] for n in chosen])[number]
        sums = whole.statistics[chosen].sum(axis=0)
        assert whole.from_sums(sums) == pytest.approx(alone.value, rel=1e-12)
    drawn = np.stack([whole.statistics[[0, 1]].sum(axis=0), whole.statistics.sum(axis=0)])
    assert whole.from_sums(drawn)[1] == pytest.approx(whole.value)
    assert whole.per_item[0] == bleu(REFERENCES[:1], PREDICTIONS[:1])[number].value


def test_bleu_measures_against_the_closest_reference_and_of_two_the_shorter():
    lengths = bleu([["a", "a b c"], ["a b c d", "a b"]], ["a b", "a b c"])[0].statistics[:, :2]
    assert lengths.tolist() == [[2, 1], [3, 2]]


def test_cider_of_one_item_is_zero_and_of_a_corpus_at_most_ten():
    assert cider([["a man rides a horse"]], ["a man rides a horse"]).value == 0
    same = ["a man rides a horse", "two dogs play here now"]
    assert cider([[text] for text in same], same).per_item == pytest.approx([10, 10])


def test_an_empty_answer_scores_nothing():
    assert rouge_l([["a b"]], [""]).value == 0
    assert cider([["a b"], ["c d"]], ["", "c d"]).per_item[0] == 0
    assert bleu4([["a b"]], [""]).value == pytest.approx(0, abs=1e-12)


def test_rouge_takes_the_best_precision_and_the_best_recall():
    # precision 1 with the first reference, recall 1 with the second
    assert rouge_l([["a b c d", "a"]], ["a b"]).value == 1


@pytest.mark.parametrize(
    ("answer", "interval"),
    [
        ("", None),
        ("From 5 to 20", None),
        ("From 60 to 30.", (0.6, 0.3)),
        ("２０ and ３０", (0.2, 0.3)),
        ("from 10 to 20, from 30 to 40", (0.1, 0.2)),
        ("10 to 20\n30 to 40", (0.1, 0.2)),
    ],
)
def test_answers_with_an_interval(answer, interval):
    assert parse_interval(answer) == interval


def test_intervals_of_no_length_and_from_behind():
    assert interval_iou((0.1, 0.1), (0.1, 0.1)) == 0
    assert interval_iou((0.6, 0.3), (0.3, 0.6)) == 0
    assert interval_iou((0.0, 0.2), (0.6, 1.0)) == 0
    assert interval_iou((0.0, 0.5), (0.25, 1.0)) == 0.25


def test_the_iou_is_rounded_before_it_meets_a_threshold():
    scores = score_grounding({"a": "From 00 to 50"}, {"a": (0.0, 0.7150)}, thresholds=[0.7])
    assert 0.5 / 0.7150 < 0.7
    assert scores.metrics["mIoU"].value == scores.metrics["R1@0.7"].value * 0.7 == 0.7


def test_answers_meet_truths_by_id():
    truths = {("v1", 0): (0.1, 0.2), ("v1", 1): (0.3, 0.4), ("v2", 0): (0.5, 0.9)}
    answers = {("v2", 0): "From 50 to 90", ("x", 0): "From 10 to 20", ("v1", 0): "somewhere"}
    scores = score_grounding(answers, truths)
    assert scores.ids == (("v1", 0), ("v2", 0))
    assert scores.metrics["mIoU"].per_item.tolist() == [0, 1]
    assert (scores.missing, scores.unknown, scores.unparsed) == ((("v1", 1),), (("x", 0),), (("v1", 0),))
    strict = score_grounding(answers, truths, strict=True)
    assert strict.ids == tuple(truths) and strict.missing == scores.missing
    assert strict.metrics["mIoU"].value == pytest.approx(1 / 3)
    assert strict.unparsed == (("v1", 0),)


def test_segments_meet_their_captions_by_id():
    references = {("v1", 0): "A man walks in.", ("v1", 1): ["He talks.", "He is talking."], ("v2", 0): "A dog barks."}
    answers = {("v2", 0): "A dog barks!", ("v1", 1): "He is talking", ("v1", 0): ""}
    scores = score_segment_captions(answers, references)
    assert set(scores.metrics) == {"BLEU4", "Rouge", "CIDEr"}
    assert scores.metrics["Rouge"].per_item == pytest.approx([0, 1, 1])
    assert scores.unparsed == (("v1", 0),) and not scores.missing
    del answers["v1", 0]
    left = score_segment_captions(answers, references)
    assert left.missing == (("v1", 0),) and left.metrics["Rouge"].value == pytest.approx(1)
    strict = score_segment_captions(answers, references, strict=True)
    for name, metric in strict.metrics.items():
        assert metric.value == scores.metrics[name].value


def test_a_metric_that_is_given_gets_tokens():
    seen = []

    def meteor(references, predictions):
        seen.append((references, predictions))
        return rouge_l(references, predictions)

    score_segment_captions({1: "It isn't (red)."}, {1: "It's \u201cred\u201d!"}, meteor=meteor)
    assert seen == [([["it 's red"]], ["it is n't -lrb- red -rrb-"])]


@pytest.mark.parametrize(
    ("answer", "events"),
    [
        ("", []),
        ("from 10 to 20, small letter", []),
        ("From 10 to 20: colon", []),
        ("From 90 to 10,  backwards  ", [TimedSentence(90, 10, "backwards")]),
        ("From 1 to 2, one. From 3 to 4, two\nFrom 5 to 6, three",
         [TimedSentence(1, 2, "one. From 3 to 4, two"), TimedSentence(5, 6, "three")]),
        ("From ٣ to 7, digits", [TimedSentence(3, 7, "digits")]),
        (f"From {'9' * 5000} to 7, endless\nFrom 1 to 2, then", [TimedSentence(1, 2, "then")]),
        ("From 1 to 2, 日本 😀", [TimedSentence(1, 2, "日本 😀")]),
    ],
)  # fmt: skip
def test_dense_answers(answer, events):
    assert parse_events(answer) == events


def test_only_neighbours_in_time_and_words_are_merged():
    chain = [
        TimedSentence(0, 9, "x y"),
        TimedSentence(10, 19, "x y"),
        TimedSentence(19, 30, "x y"),
        TimedSentence(40, 50, "x y"),
        TimedSentence(51, 60, "z"),
    ]
    assert merge_neighbours(chain) == [
        TimedSentence(0, 30, "x y"),
        TimedSentence(40, 50, "x y"),
        TimedSentence(51, 60, "z"),
    ]


def test_the_last_hundredth_counts_in_full():
    assert read_events("From 00 to 99, all", 50.0) == [TimedSentence(0.0, 50.0, "all")]
    assert read_events("From 90 to 10, backwards", 200) == [TimedSentence(180.0, 22.0, "backwards")]


def test_dense_captions_of_a_perfect_answer():
    scores = score_dense_captions({"v1": GOOD}, TRUTHS, meteor=rouge_l)
    assert scores.ids == ("v1",) and scores.missing == ("v2",)
    for name in ("SODA_c", "Precision@0.9", "Recall@0.9", "F1"):
        assert scores.metrics[name].value == pytest.approx(1), name
    assert scores.metrics["CIDEr"].value > 7


def test_dense_captions_count_missing_videos_only_when_strict():
    answers = {"v2": "I see nothing.", "v1": GOOD, "v8": GOOD}
    official = score_dense_captions({"v1": GOOD}, TRUTHS, meteor=rouge_l)
    strict = score_dense_captions({"v1": GOOD}, TRUTHS, meteor=rouge_l, strict=True)
    silent = score_dense_captions(answers, TRUTHS, meteor=rouge_l)
    assert silent.ids == strict.ids == ("v1", "v2") and silent.unparsed == ("v2",) and silent.unknown == ("v8",)
    assert strict.unparsed == ()
    for name, metric in official.metrics.items():
        assert strict.metrics[name].value == pytest.approx(silent.metrics[name].value), name
        if not name.startswith("F1"):  # a mean; F1 joins two means
            assert strict.metrics[name].value == pytest.approx(metric.value / 2), name


def test_f1_joins_the_means_of_precision_and_recall():
    half = "From 00 to 19, A man walks in."
    scores = score_dense_captions({"v1": half, "v2": "nothing"}, TRUTHS).metrics
    precision, recall = scores["Precision@0.5"].value, scores["Recall@0.5"].value
    assert (precision, recall) == pytest.approx((1 / 2, 1 / 6))
    assert scores["F1@0.5"].value == pytest.approx(2 * precision * recall / (precision + recall))
    assert scores["F1@0.5"].per_item == pytest.approx([0.5, 0])


def test_without_meteor_there_is_no_metric_built_on_it():
    assert not {"METEOR", "SODA_c"} & set(score_dense_captions({"v1": GOOD}, TRUTHS).metrics)


def test_predictions_apart_from_all_events_meet_garbage():
    seen = []

    def meteor(references, predictions):
        seen.extend(zip(references, predictions, strict=True))
        return rouge_l(references, predictions)

    score_dense_captions({"v2": "From 00 to 02, a car stops"}, TRUTHS, meteor=meteor)
    soda, *others = seen
    assert soda == (["a car stops"], "a car stops")
    assert others == [([GARBAGE], "a car stops")] * 4  # its IoU of 0.09 is below every threshold


def test_soda_asks_with_the_prediction_as_reference_and_only_where_times_meet():
    seen = []

    def meteor(references, predictions):
        seen.extend(zip(references, predictions, strict=True))
        return rouge_l(references, predictions)

    events = [TimedSentence(20, 30, "late"), TimedSentence(0, 10, "early")]
    videos = soda_c([[TimedSentence(0, 10, "first guess")], []], [events, events], meteor)
    assert seen == [(["first guess"], "early")]
    assert videos == [Soda(0, 0, 0), Soda(0, 0, 0)]


def test_soda_keeps_the_order_of_time():
    crossed = [TimedSentence(0, 10, "b"), TimedSentence(5, 15, "a")]
    events = [TimedSentence(0, 10, "a"), TimedSentence(5, 15, "b")]
    (video,) = soda_c([crossed], [events], rouge_l)
    assert video.precision == pytest.approx(1 / 3 / 2)  # either pair alone, each with an IoU of 1/3


def test_soda_sorts_both_sides():
    late, middle, early = TimedSentence(50, 60, "c"), TimedSentence(20, 30, "b"), TimedSentence(0, 10, "a")
    (video,) = soda_c([[middle, late, early]], [[late, middle, early]], rouge_l)
    assert video.f1 == pytest.approx(1)


def brute_force(scores):
    if not scores.size:
        return 0.0
    return max(
        brute_force(scores[1:]),
        brute_force(scores[:, 1:]),
        scores[0, 0] + brute_force(scores[1:, 1:]),
    )


def test_the_best_matching_is_the_best():
    random = np.random.default_rng(0)
    for rows, columns in [(1, 1), (1, 4), (4, 1), (3, 5), (5, 4), (5, 5)]:
        scores = random.random((rows, columns)) ** 3
        assert best_matching(scores) == pytest.approx(brute_force(scores))


def test_matching_thousands_takes_seconds():
    scores = np.random.default_rng(0).random((2000, 2000))
    start = time.process_time()
    found = best_matching(scores)
    assert time.process_time() - start < 20
    assert 2000 * 0.5 < found <= 2000


def test_overlap_of_events_without_length_is_zero():
    point, backwards = TimedSentence(1, 1, ""), TimedSentence(3, 1, "")
    assert event_iou([point, backwards], [point, backwards, TimedSentence(0, 4, "")]).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert event_iou([], [point]).shape == (0, 1)


def test_an_unknown_tokenizer_is_a_user_error():
    with pytest.raises(UserError, match="tokenizer 'penn': there is ptb and java"):
        score_segment_captions({1: "a"}, {1: "b"}, tokenizer="penn")
