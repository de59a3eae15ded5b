"""A working directory in which the examples of the public face run: tiny model, clip, test set, recipe."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from qa_sets import write_set
from synthetic_clips import write_clip
from tiny_checkpoint import write_checkpoint
from transformers import LlamaTokenizer

TOKENIZER_MODEL = Path(__file__).parents[1] / "parity/fixtures/video_llava/tokenizer.model"
RECIPE = """\
system: video_llava
language_model: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2,
                 num_attention_heads: 4, num_key_value_heads: 4, max_position_embeddings: 512,
                 pad_token_id: 0, bos_token_id: 1, eos_token_id: 2}
tokenizer: tokenizer
towers:
  image: &tower {hidden_size: 24, intermediate_size: 40, num_hidden_layers: 2, num_attention_heads: 3,
                 image_size: 28, patch_size: 14}
  video: {<<: *tower, num_frames: 4}
stages:
  - name: align
    train: {connectors: 1e-2}
    data: [{annotations: train.json, media: .}]
    global_batch_size: 2
    workers: 0
"""


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what the examples name."""
    folder = tmp_path_factory.mktemp("examples")
    write_checkpoint(folder / "tiny-model")
    write_clip(folder / "clip.mp4")
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    shutil.copy(TOKENIZER_MODEL, tokenizer / "tokenizer.model")
    LlamaTokenizer.from_pretrained(str(tokenizer)).save_pretrained(tokenizer)
    said = [{"from": "human", "value": "<video>\nWhat moves?"}, {"from": "gpt", "value": "A square."}]
    (folder / "train.json").write_text(
        json.dumps([{"id": n, "video": "clip.mp4", "conversations": said} for n in "ab"])
    )
    (folder / "tiny.yaml").write_text(RECIPE)
    test_set = folder / "world/GPT_Zero_Shot_QA/World_Zero_Shot_QA"
    write_set(test_set, [("clip", "What moves?", "square"), ("clip", "What colour is it?", "red")], missing=["clip"])
    shutil.copy(folder / "clip.mp4", test_set / "videos/clip.mp4")
    return folder


@pytest.fixture
def in_examples(examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of that folder as the working directory."""
    shutil.copytree(examples, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "work"
