"""Caption metrics by other programs: SPICE by a stand-in that speaks its protocol, BERTScore by a tiny encoder."""

import json
import sys

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.measured import Item
from vidtune.evaluation.metrics.base import MetricValues
from vidtune.evaluation.metrics.programs import caption_programs
from vidtune.evaluation.metrics.programs.bert_score import (
    ENVIRONMENT,
    BertScore,
    bert_score_identity,
    bert_score_problem,
)
from vidtune.evaluation.metrics.programs.caption_programs import CaptionPrograms
from vidtune.evaluation.metrics.programs.spice import PARSER, spice, spice_problem
from vidtune.registry import BENCHMARKS

# The F value is the number of words of the prediction, divided by 10 for each reference.
STAND_IN = f"""#!{sys.executable}
import json, os, sys
if os.environ["STAND_IN"] == "crash":
    print("java.lang.OutOfMemoryError: Java heap space", file=sys.stderr)
    sys.exit(1)
arguments = sys.argv
items = json.load(open(arguments[arguments.index("-out") - 1]))
values = [len(item["test"].split()) / 10 ** len(item["refs"]) for item in items]
records = [{{"image_id": item["image_id"], "scores": {{"All": {{"f": f}}}}}} for item, f in zip(items, values)]
json.dump(records[:: -1], open(arguments[arguments.index("-out") + 1], "w"))
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of SPICE in a package pycocoevalcap of ours, without the parser."""
    folder = tmp_path / "site" / "pycocoevalcap" / "spice"
    (folder / "lib").mkdir(parents=True)
    (folder / "spice-1.0.jar").write_bytes(b"")
    (folder.parent / "__init__.py").write_text("")
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(STAND_IN)
    java.chmod(0o755)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "pycocoevalcap", raising=False)
    monkeypatch.setenv("PATH", str(java.parent))
    monkeypatch.setenv("STAND_IN", "answer")
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    return folder


def with_parser(package):
    for name in PARSER:
        (package / "lib" / name).write_bytes(b"")


def test_spice_gives_each_item_its_value(package):
    assert "stanford-corenlp-3.6.0.jar and stanford-corenlp-3.6.0-models.jar not in" in spice_problem()
    with_parser(package)
    assert spice_problem() is None
    found = spice([["x"], ["x", "y"], ["z"]], ["one", "two words", "now three words"])
    assert found.per_item.tolist() == [0.1, 0.02, 0.3] and found.value == pytest.approx(0.14)
    assert spice([], []).value is None


def test_a_metric_that_fails_on_the_way_is_left_out_and_the_others_stay(package, monkeypatch):
    with_parser(package)
    monkeypatch.setenv("STAND_IN", "crash")
    with pytest.raises(UserError, match=r"SPICE: the Java program gave no scores \(exit code 1\): java.lang.OutOfMem"):
        spice([["x"]], ["one"])
    with CaptionPrograms() as programs:
        assert set(programs.of_tokens) == {"SPICE"} and set(programs.left_out) == {"METEOR", "BERTScore"}
        found = programs.computed(lambda: [metric([["x"]], ["y"]) for metric in programs.of_tokens.values()])
        assert found == [] and "OutOfMemoryError" in programs.left_out["SPICE"]
        with pytest.raises(UserError, match="another"):
            programs.computed(lambda: (_ for _ in ()).throw(UserError("another")))


def test_a_metric_that_fails_after_the_strict_value_is_in_no_value(package, monkeypatch):
    calls = []

    def dies(references, predictions):
        calls.append(predictions)
        if len(calls) > 1:
            raise UserError("SPICE: the Java program ended")
        return MetricValues.mean([1.0] * len(predictions))

    with_parser(package)
    monkeypatch.setattr(caption_programs, "spice", dies)
    items = [
        Item(index, str(index), "a", "target", {"sentence": "a man sits"}, pred)
        for index, pred in enumerate(("a man sits", "too long " * 40))
    ]
    monkeypatch.setattr(caption_programs, "_item_by_item", lambda metric: metric)
    measured = BENCHMARKS["videoref_bench"].measure(items)
    assert len(calls) == 2 and "ended" in measured.left_out["SPICE"]
    for values in (measured.official["target"], measured.strict["target"]):
        assert "SPICE" not in values.metrics and "BLEU1" in values.metrics
    assert measured.official["target"].metrics["BLEU3"].value == pytest.approx(1.0, abs=1e-3)


def test_no_pair_is_computed_twice(package, monkeypatch):
    asked = []

    def counted(references, predictions):
        asked.extend(predictions)
        return MetricValues.mean([float(len(text)) for text in predictions])

    with_parser(package)
    monkeypatch.setattr(caption_programs, "spice", counted)
    with CaptionPrograms() as programs:
        metric = programs.of_tokens["SPICE"]
        assert metric([["x"], ["x"], ["y"]], ["a", "bb", "a"]).per_item.tolist() == [1.0, 2.0, 1.0]
        assert metric([["x"]], ["bb"]).value == 2.0
    assert asked == ["a", "bb", "a"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    words = [*special, *["a", "man", "sits", "he", "runs", "off", "the", "door", "opens", "cat"]]
    tokens = Tokenizer(WordLevel({word: number for number, word in enumerate(dict.fromkeys(words))}, "[UNK]"))
    tokens.pre_tokenizer = Whitespace()
    tokens.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 3}
    BertModel(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(folder)
    return folder


def slow_f1(scorer, reference, prediction):
    """The same by loops over tokens, one text at a time."""
    states = []
    for text in (reference, prediction):
        read = scorer._tokenizer([text], return_tensors="pt")
        with torch.no_grad():
            hidden = scorer._model(**read, output_hidden_states=True).hidden_states[scorer.layer][0]
        states.append(hidden.numpy().astype(np.float64))

    def cosine(one, other):
        return one @ other / np.linalg.norm(one) / np.linalg.norm(other)

    recall, precision = (
        np.mean([max(cosine(token, other) for other in others) for token in own[1:-1]])
        for own, others in (states, states[::-1])
    )
    return 2 * precision * recall / (precision + recall)


def test_bert_score_matches_every_token_with_the_nearest(encoder, monkeypatch):
    scorer = BertScore(encoder)
    assert scorer.layer == 3
    references = [["a man sits", "he runs off"], ["the door opens"], ["a cat"]]
    predictions = ["he runs", "the door opens", " "]
    found = scorer.scores(references, predictions).per_item
    wanted = [max(slow_f1(scorer, text, predictions[0]) for text in references[0]), 1.0, 0.0]
    assert found.tolist() == pytest.approx(wanted, abs=1e-5)
    monkeypatch.setenv(ENVIRONMENT, str(encoder))
    assert bert_score_problem() is None
    identity = bert_score_identity()
    assert {**identity, "fingerprint": ""} == {"model": encoder.name, "fingerprint": "", "layer": 3, "rescaled": False}
    (config := json.loads((encoder / "config.json").read_text())).update(num_hidden_layers=12)
    (encoder / "config.json").write_text(json.dumps(config))
    other = bert_score_identity()
    assert other["layer"] == 9 and other["fingerprint"] != identity["fingerprint"]


def test_without_an_encoder_bert_score_says_what_to_give(tmp_path, monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert f"set {ENVIRONMENT} to a folder" in bert_score_problem() and bert_score_identity() is None
    with pytest.raises(UserError, match="no encoder is given"):
        BertScore()
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    assert "holds no config.json" in bert_score_problem()
    with pytest.raises(UserError, match="holds no model and tokenizer"):
        BertScore()
