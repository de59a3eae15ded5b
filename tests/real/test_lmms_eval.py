"""The command of lmms-eval finds the model `vidtune` and answers a task with it. Needs lmms-eval beside vidtune."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from lmms_eval_task import TASK, write_media, write_task
from tiny_checkpoint import write_checkpoint

import vidtune

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lmms_eval") is None, reason="lmms-eval is not installed; see docs/evaluation_reference.md"
)


def test_the_command_answers_a_local_task(tmp_path):
    write_checkpoint(tmp_path / "model")
    documents = write_media(tmp_path)
    task = write_task(tmp_path / "task", documents)
    command = [sys.executable, "-m", "lmms_eval", "--model", "vidtune", "--tasks", TASK, "--include_path", str(task)]
    arguments = f"pretrained={tmp_path / 'model'},workers=0"
    options = ["--model_args", arguments, "--device", "cpu", "--batch_size", "4", "--log_samples"]
    result = subprocess.run(
        [*command, *options, "--output_path", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_DATASETS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        timeout=900,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    [samples] = (tmp_path / "out").rglob(f"*samples_{TASK}.jsonl")
    answers = {line["doc_id"]: line["filtered_resps"] for line in map(json.loads, samples.read_text().splitlines())}
    model = vidtune.load(tmp_path / "model", device="cpu")
    alone = [model.answer(one["question"], video=one["video"], max_new_tokens=4) for one in documents]
    assert [answers[number] for number in range(len(documents))] == alone
