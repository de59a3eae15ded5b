"""One journey through all commands with a real recipe, real files and a model of a few thousand weights."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
from launched import logged_steps
from transformers import LlamaTokenizer

from vidtune.cli.main import run

TOKENIZER_MODEL = Path(__file__).parents[1] / "parity/fixtures/video_llava/tokenizer.model"
RECIPE = """\
system: video_llava
language_model: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2,
                 num_attention_heads: 4, num_key_value_heads: 4, max_position_embeddings: 512,
                 pad_token_id: 0, bos_token_id: 1, eos_token_id: 2}
tokenizer: ${WORK}/tokenizer
towers:
  image: &tower {hidden_size: 24, intermediate_size: 40, num_hidden_layers: 2, num_attention_heads: 3,
                 image_size: 28, patch_size: 14}
  video: {<<: *tower, num_frames: 4}
stages:
  - name: align
    train: {connectors: 1e-2}
    data: [{annotations: "${WORK}/train.json", media: "${WORK}/media"}]
    global_batch_size: 2
    workers: 0
  - name: instruct
    train: {connectors: 1e-3, language_model: 1e-3}
    data: [{annotations: "${WORK}/train.json", media: "${WORK}/media"}]
    global_batch_size: 2
    workers: 0
benchmarks: [{name: msvd_qa, data: "${WORK}/eval"}]
generation: {max_new_tokens: 4}
"""


def write_video(path: Path, level: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(6):
            pixels = np.full((32, 32, 3), level + 5 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipe, tokenizer, three videos (one of them cut off), annotations and a test set."""
    folder = tmp_path_factory.mktemp("journey")
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    shutil.copy(TOKENIZER_MODEL, tokenizer / "tokenizer.model")
    LlamaTokenizer.from_pretrained(str(tokenizer)).save_pretrained(tokenizer)
    (folder / "media").mkdir()
    for name, level in (("dark", 10), ("light", 200), ("broken", 90)):
        write_video(folder / f"media/{name}.mp4", level)
    content = (folder / "media/broken.mp4").read_bytes()
    (folder / "media/broken.mp4").write_bytes(content[:200])
    samples = [
        {
            "video": f"{name}.mp4",
            "conversations": [{"from": "human", "value": "<video>\nHow is it?"}, {"from": "gpt", "value": f"{name}."}],
        }
        for name in ("dark", "light", "broken")
    ]
    (folder / "train.json").write_text(json.dumps(samples))
    test_set = folder / "eval/GPT_Zero_Shot_QA/MSVD_Zero_Shot_QA"
    (test_set / "videos").mkdir(parents=True)
    for name in ("dark", "light"):
        shutil.copy(folder / f"media/{name}.mp4", test_set / "videos")
    questions = [{"video_name": n, "question": "How is it?", "question_id": n} for n in ("dark", "light", "absent")]
    (test_set / "test_q.json").write_text(json.dumps(questions))
    (test_set / "test_a.json").write_text(json.dumps([{"answer": n} for n in ("dark", "light", "absent")]))
    (folder / "recipe.yaml").write_text(RECIPE.replace("${WORK}", str(folder)))
    return folder


@pytest.fixture(scope="module")
def trained(work: Path) -> Path:
    assert run(["data", "check", str(work / "recipe.yaml"), "--out", str(work / "run")]) == 0
    assert run(["train", str(work / "recipe.yaml"), "--out", str(work / "run")]) == 0
    return work / "run/instruct/final"


def test_data_check_counts_by_reason_and_records_what_is_unusable(work, capsys):
    assert run(["data", "check", str(work / "recipe.yaml"), "--out", str(work / "checked"), "--decode"]) == 0
    shown = capsys.readouterr().out
    assert "align: 3 samples, 3 files, 1 unusable" in shown and "broken.mp4" in shown
    excluded = (work / "checked/align/excluded.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in excluded] == ["train:2"]


def test_training_follows_the_check_and_gives_every_stage_a_final_checkpoint(work, trained):
    assert (work / "run/align/final/config.json").is_file()
    assert (trained / "config.json").is_file() and (trained / "recipe.yaml").is_file()


def test_training_another_recipe_into_the_folder_is_refused(work, trained, capsys):
    assert run(["train", str(work / "recipe.yaml"), "--out", str(work / "run"), "seed=7"]) == 2
    assert "another recipe" in capsys.readouterr().err


def test_answers_share_the_video_and_come_as_json(work, trained, capsys):
    video = str(work / "media/dark.mp4")
    ask = ["--question", "How is it?", "--question", "What moves?", "--max-new-tokens", "4", "--json"]
    assert run(["answer", str(trained), "--video", video, *ask]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["question"] for answer in answers] == ["How is it?", "What moves?"]


def test_unreadable_video_is_an_error_with_its_path(work, trained, capsys):
    assert run(["answer", str(trained), "--video", str(work / "media/broken.mp4"), "--question", "What?"]) == 2
    assert "broken.mp4" in capsys.readouterr().err


def test_recipe_benchmarks_are_scored_judged_again_and_reported(work, trained, capsys):
    out = work / "evaluation"
    assert run(["evaluate", str(trained), "--out", str(out)]) == 0
    first = capsys.readouterr().out
    assert "2 of 3 questions answered" in first and "judge rules-v1" in first and "1 without file" in first
    predictions = (out / "msvd_qa/predictions.jsonl").read_text()
    assert json.loads((out / "msvd_qa/run.json").read_text())["protocol"]["generation"]["max_new_tokens"] == 4
    assert run(["judge", str(out / "msvd_qa")]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert run(["evaluate", str(trained), "--out", str(out), "--blind"]) == 0
    assert "blind" in capsys.readouterr().out
    page = work / "report.html"
    assert run(["report", str(out / "msvd_qa"), str(out / "msvd_qa-blind"), "--out", str(page)]) == 0
    assert "How is it?" in page.read_text()
    assert (out / "msvd_qa/predictions.jsonl").read_text() == predictions


def test_results_of_other_rules_are_not_mixed(work, trained, capsys):
    out = ["--out", str(work / "mixed")]
    assert run(["evaluate", str(trained), *out, "--protocol", "generation.max_new_tokens=2", "--judge", "none"]) == 0
    assert run(["evaluate", str(trained), *out, "--protocol", "generation.max_new_tokens=3", "--judge", "none"]) == 2
    assert "another run" in capsys.readouterr().err


def test_converted_checkpoint_answers_the_same(work, trained, capsys):
    ask = ["--video", str(work / "media/light.mp4"), "--question", "How is it?", "--max-new-tokens", "4"]
    assert run(["answer", str(trained), *ask]) == 0
    before = capsys.readouterr().out
    assert run(["convert", str(trained), str(work / "official"), "--to", "official"]) == 0
    assert run(["convert", str(work / "official"), str(work / "ours")]) == 0
    capsys.readouterr()
    assert run(["answer", str(work / "ours"), *ask]) == 0
    assert capsys.readouterr().out == before
    assert run(["convert", str(trained), str(work / "ours")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_unknown_format_names_the_nearest_before_weights_are_read(work, trained, capsys, monkeypatch):
    monkeypatch.setattr("vidtune.checkpoints.load.load_checkpoint", None)
    assert run(["convert", str(trained), str(work / "new"), "--to", "offical"]) == 2
    assert "'official'" in capsys.readouterr().err
    assert not (work / "new").exists()


def test_interrupted_training_saves_and_says_how_to_go_on(work, capsys):
    overrides = ["stages.align.max_steps=2000", "stages.align.save_every=100000", "stages.instruct.max_steps=1"]
    stopped = work / "stopped"

    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while logged_steps(stopped) < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        if logged_steps(stopped):
            os.kill(os.getpid(), signal.SIGINT)

    stopper = threading.Thread(target=interrupt)
    stopper.start()
    assert run(["train", str(work / "recipe.yaml"), "--out", str(stopped), *overrides]) == 130
    stopper.join()
    assert "run the same command again" in capsys.readouterr().err
    assert list((stopped / "align").glob("checkpoint-*"))
