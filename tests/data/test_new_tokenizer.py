"""`vidtune data tokenizer`: a tokenizer of one's own annotations and of the prompts of a system."""

import json

import pytest
import yaml

from vidtune.cli.main import run
from vidtune.processing.tokenizer import load_tokenizer

TURNS = [{"from": "human", "value": "<video>\nWhich kite flies?"}, {"from": "gpt", "value": "A purple kite, at 12.5."}]


def annotations(folder, turns=TURNS):
    path = folder / "train.json"
    path.write_text(json.dumps([{"id": str(n), "video": f"{n}.mp4", "conversations": turns} for n in range(20)]))
    return path


def made(folder, *options):
    return run(["data", "tokenizer", *options, "--out", str(folder / "tokenizer"), "--size", "400"])


def test_a_tokenizer_of_annotations_knows_their_words_and_the_prompts_of_a_system(tmp_path, capsys):
    path = annotations(tmp_path)
    assert made(tmp_path, str(path), "--system", "videochat_flash") == 0
    assert f"from 20 conversations; in a recipe: tokenizer: {tmp_path / 'tokenizer'}" in capsys.readouterr().out
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    assert len(tokenizer) <= 400
    text = "<|im_start|>user\nWhich purple kite flies at 89? é<|im_end|>\n"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    pieces = tokenizer.convert_ids_to_tokens(ids)
    assert {"<|im_start|>", "<|im_end|>", "▁kite", "▁purple", "8", "9"} <= set(pieces)
    assert not any("video" in piece for piece in tokenizer.get_vocab())  # tags are no words


def test_a_recipe_names_annotations_and_system(tmp_path, capsys):
    path = annotations(tmp_path)
    stage = {
        "name": "align",
        "train": {"connectors": 1e-3},
        "data": [{"annotations": str(path)}],
        "epochs": 1,
        "global_batch_size": 2,
    }
    folder = str(tmp_path / "tokenizer")
    recipe = {"system": "video_llava", "tokenizer": folder, "language_model": {"model_type": "llama"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**recipe, "stages": [stage, {**stage, "name": "tune"}]}))
    assert made(tmp_path, str(tmp_path / "mine.yaml")) == 0
    assert "from 20 conversations" in capsys.readouterr().out  # an annotation file of two stages counts once
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    assert len(tokenizer("ASSISTANT:", add_special_tokens=False).input_ids) < 5  # words of the prompt are learned too
    assert made(tmp_path, str(tmp_path / "mine.yaml")) == 2
    assert f"{folder}: exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("turns", "options", "said"),
    [
        (TURNS, (), "name the system whose prompts the tokenizer has to know"),
        (TURNS, ("--system", "videochat_flsh"), "videochat_flash"),
        (TURNS, ("--system", "video_llava", "--size", "299"), "greater than or equal to 300"),
        (TURNS, ("--system", "video_llava", "--size", "300"), "no tokenizer of 300 tokens can be made"),
        ([], ("--system", "video_llava"), "no conversation can be used"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_line(tmp_path, capsys, turns, options, said):
    if turns:
        turns = [{**turn, "value": turn["value"] + "".join(map(chr, range(0x4E00, 0x4E40)))} for turn in turns]
    path = annotations(tmp_path, turns)
    assert run(["data", "tokenizer", str(path), "--out", str(tmp_path / "tokenizer"), *options]) == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err
    assert not (tmp_path / "tokenizer").exists()
