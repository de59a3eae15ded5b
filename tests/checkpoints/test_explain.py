"""``vidtune convert --explain``: the steps in which a model is put together, in order."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TOKENIZER, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from vidtune.checkpoints.explain import explain
from vidtune.checkpoints.fit_processor import build_processor
from vidtune.checkpoints.load import Checkpoint, load_checkpoint, recognise_checkpoint
from vidtune.checkpoints.report import LoadReport
from vidtune.checkpoints.write import save_checkpoint
from vidtune.cli.main import run
from vidtune.errors import UserError
from vidtune.models.towers.base import tower_config
from vidtune.systems.parts.openai_whisper import ENCODER_TOWER

D = 32
WHISPER = {"d_model": 1280, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("explain")
    torch.manual_seed(0)
    sizes = {"hidden_size": D, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model("llama", **sizes, vocab_size=560, max_position_embeddings=512)
    AutoModelForCausalLM.from_config(config).save_pretrained(root / "llm")
    shutil.copy(TOKENIZER, root / "llm/tokenizer.model")
    torch.save({"mm_projector.weight": torch.randn(D, 768), "mm_projector.bias": torch.randn(D)}, root / "p.bin")
    (root / "run").mkdir()
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {f"{layer}.lora_A.weight": torch.randn(2, D), f"{layer}.lora_B.weight": torch.randn(D, 2)}
    torch.save(factors, root / "run/adapter_model.bin")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "target_modules": ["q_proj"]}
    (root / "run/adapter_config.json").write_text(json.dumps(settings))
    others = {"audio_mm_projector.weight": torch.randn(D, 768), "audio_mm_projector.bias": torch.randn(D)}
    others |= {"asr_mm_projector.weight": torch.randn(D, 1280), "asr_mm_projector.bias": torch.randn(D)}
    torch.save({f"base_model.model.model.{n}": t for n, t in others.items()}, root / "run/non_lora_trainables.bin")
    (root / "run/config.json").write_text(json.dumps({"model_type": "LongVALE-LLM"}))
    (root / "speech").mkdir()
    tower = tower_config({"type": "whisper", **ENCODER_TOWER.read_sizes({"model_type": "whisper", **WHISPER}, {})})
    state = {name: tensor.contiguous() for name, tensor in tower.build().state_dict().items()}
    save_file(state, root / "speech/model.safetensors")
    (root / "speech/config.json").write_text(json.dumps({"model_type": "whisper", **WHISPER}))
    return {name: root / (name if name != "p" else "p.bin") for name in ("llm", "p", "run", "speech")}


def test_steps_stand_in_their_order_without_a_weight_read(places, capsys, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a weight was read")

    monkeypatch.setattr("vidtune.checkpoints.files.tensors.TensorFile.read", refuse)
    words = ["convert", str(places["run"]), "--explain", "--tower", f"speech={places['speech']}"]
    below = [word for name in ("llm", "p") for word in ("--model-base", str(places[name]))]
    assert run([*words, *below]) == 0
    lines = capsys.readouterr().out.splitlines()
    said = [line.split() for line in lines]
    assert [words[1] for words in said[:4]] == ["base", "tower", "connectors", "LoRA"]
    assert [words[-1] for words in said[:4]] == [str(places[name]) for name in ("llm", "speech", "p", "run")]
    told = [" ".join(words[1:-1]) for words in said[:4]]
    assert told == [
        "base llama 12 keys language_model",
        f"tower whisper {len(load_file(places['speech'] / 'model.safetensors'))} keys towers.speech",
        "connectors projector 2 keys connectors.visual",
        "LoRA run official_lora 4 keys, 1 adapted connectors.audio, connectors.speech, language_model",
    ]
    assert lines[4:] == ["absent: vision, audio"]


def test_what_no_file_fills_is_told(places):
    found = explain(recognise_checkpoint(places["p"], base=str(places["llm"])))
    assert found.drawn == ("connectors.audio", "connectors.speech")
    loaded = load_checkpoint(places["p"], base=str(places["llm"]))
    assert {name.rsplit(".", 2)[0] for name in loaded.report.drawn} == set(found.drawn)


def test_whole_models_are_one_step(places, tmp_path):
    model = tiny_model()
    memory = Checkpoint(model, build_processor(model.config, places["llm"]), LoadReport("memory"))
    for format in ("vidtune", "official"):
        save_checkpoint(memory, tmp_path / format, format)
        (step,) = explain(recognise_checkpoint(tmp_path / format)).steps
        assert (step.what, step.format) == ("base", format)
        assert step.keys == len(model.state_dict())
        assert step.fills == ("connectors.visual", "language_model", "towers.image", "towers.video")


def test_what_cannot_be_put_together_is_refused(places, capsys):
    with pytest.raises(UserError, match="name its language model with --model-base"):
        explain(recognise_checkpoint(places["run"]))
    assert run(["convert", str(places["run"])]) == 2
    assert capsys.readouterr().err.startswith("error: name OUT, the folder to write; or --explain")
