"""Checkpoints that name code or files of their own: nothing of it is run, asked for or opened."""

import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TOKENIZER, tiny_model
from transformers import LlamaTokenizer

from vidtune.checkpoints.files.fingerprint import checkpoint_fingerprint
from vidtune.checkpoints.files.folder import CheckpointFiles
from vidtune.checkpoints.files.tensors import read_state, weight_files
from vidtune.checkpoints.fit_processor import build_processor
from vidtune.checkpoints.load import Checkpoint, load_checkpoint
from vidtune.checkpoints.report import LoadReport
from vidtune.checkpoints.write import save_checkpoint
from vidtune.errors import UserError
from vidtune.evaluation.metrics.programs.bert_score import BertScore
from vidtune.evaluation.models.pretrained import PretrainedModel
from vidtune.processing.tokenizer import load_tokenizer

KERNEL = "strangers/attention"


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("native")
    (root / "tokenizer").mkdir()
    shutil.copy(TOKENIZER, root / "tokenizer/tokenizer.model")
    LlamaTokenizer.from_pretrained(root / "tokenizer").save_pretrained(root / "tokenizer")
    model = tiny_model()
    processor = build_processor(model.config, root / "tokenizer")
    save_checkpoint(Checkpoint(model, processor, LoadReport("memory")), root / "model")
    return root / "model"


@pytest.fixture
def planted(native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy whose settings name ``code.py``, which leaves a trace, and a kernel of the hub."""
    copy = shutil.copytree(native, tmp_path / "planted")
    (copy / "code.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n")
    classes = (
        "AutoConfig",
        "AutoModel",
        "AutoModelForCausalLM",
        "AutoProcessor",
        "AutoTokenizer",
        "AutoImageProcessor",
    )
    code = {"auto_map": {name: "code.Evil" for name in classes}}
    code["auto_map"]["AutoTokenizer"] = ["code.Evil", "code.Evil"]
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        settings = json.loads((copy / name).read_text()) | code
        if name == "config.json":
            settings |= {"attn_implementation": KERNEL, "_attn_implementation": KERNEL, "use_kernels": True}
            settings["text_config"] |= {"_attn_implementation": KERNEL, "attn_implementation": KERNEL, **code}
        (copy / name).write_text(json.dumps(settings))
    monkeypatch.setattr("builtins.input", lambda *said: pytest.fail("asks whether to run the code"))
    monkeypatch.setattr(
        "transformers.modeling_utils.lazy_import_flash_attention", lambda *name, **how: pytest.fail("fetches a kernel")
    )
    return copy


def test_code_and_kernels_that_a_checkpoint_names_are_ignored(planted: Path, native: Path, tmp_path: Path) -> None:
    loaded, plain = load_checkpoint(planted).model, load_checkpoint(native).model
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert loaded.config._attn_implementation == plain.config._attn_implementation
    assert KERNEL not in json.dumps(CheckpointFiles(planted).config)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("known", [True, False])
def test_a_tokenizer_with_code_is_refused_unless_transformers_has_it(
    known: bool, planted: Path, tmp_path: Path
) -> None:
    settings = planted / "tokenizer_config.json"
    if not known:
        settings.write_text(json.dumps(json.loads(settings.read_text()) | {"tokenizer_class": "Evil"}))
        (planted / "config.json").write_text('{"model_type": "evil"}')
        with pytest.raises(UserError, match="needs the code that lies beside it, which is never run") as caught:
            load_tokenizer(planted)
        assert "\n" not in str(caught.value)
    else:
        assert load_tokenizer(planted).eos_token is not None
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attn_implementation": KERNEL}, f"attn_implementation is '{KERNEL}'; code from the hub is never run"),
        ({"text_config": {"_attn_implementation": {"": KERNEL}}}, "code from the hub is never run"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "quant_method is 'mxfp4'"),
        ({"use_kernels": True}, "has use_kernels"),
        ({"transformers_weights": "../other.safetensors"}, "has transformers_weights"),
    ],
)
def test_a_model_of_transformers_that_would_fetch_code_is_refused(settings: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", **settings}))
    with pytest.raises(UserError, match=message) as caught:
        PretrainedModel(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "config.json"))


def test_a_model_of_transformers_without_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'touch ran'\ntR.")
    for open_model in (PretrainedModel, BertScore):
        with pytest.raises(UserError, match="has no weights in safetensors") as caught:
            open_model(tmp_path)
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("settings", [{"attn_implementation": "kernels-community/x"}, {"hidden_size": 10**12}])
def test_the_config_of_an_encoder_for_bert_score_is_looked_at(settings: dict, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **settings}))
    with pytest.raises(UserError, match=next(iter(settings))):
        BertScore(tmp_path)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; expected at most 10,000"),
        ({"vocab_size": 10**8}, "the config asks for .* numbers that are not in the files"),
    ],
    ids=["layers", "vocabulary"],
)
def test_a_config_gets_no_memory_for_weights_that_are_not_there(
    sizes: dict, message: str, native: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(native, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "text_config": config["text_config"] | sizes}))
    state = load_file(copy / "model.safetensors")
    cut = {name: tensor for name, tensor in state.items() if "embed_tokens" not in name and "lm_head" not in name}
    save_file(cut, copy / "model.safetensors")
    with pytest.raises(UserError, match=message) as caught:
        load_checkpoint(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/dev/zero", "../outside.safetensors", "inner/../../outside.safetensors", "link.bin"])
def test_an_index_leads_to_no_file_outside_of_its_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (tmp_path / "outside.safetensors").write_bytes(b"")
    (folder / "link.bin").symlink_to("/dev/zero")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match="outside the folder"):
        weight_files(folder)
    # In the cache of the hub the index itself is a link, and links to its neighbours are followed.
    index = folder / "model.safetensors.index.json"
    index.rename(tmp_path / "index")
    index.symlink_to(tmp_path / "index")
    with pytest.raises(UserError, match=r"outside the folder|missing"):
        weight_files(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "weights.pt"])
def test_a_pipe_in_the_place_of_weights_is_refused_at_once(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name}: is a named pipe"):
        read_state(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name}: is a named pipe"):
        checkpoint_fingerprint(tmp_path)
    with pytest.raises(UserError, match=rf"{name}: is a named pipe"):
        checkpoint_fingerprint(tmp_path / name)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "adapter_model.bin", "training_args.bin"])
def test_code_in_a_file_of_weights_is_not_run(name: str, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    content = io.BytesIO()
    torch.save({"a": torch.ones(2), "b": Evil()}, content)
    for evil in (content.getvalue(), pickle.dumps(Evil())):
        (tmp_path / name).write_bytes(evil)
        with pytest.raises(UserError, match=f"{name}: not a readable file of tensors") as caught:
            read_state(tmp_path / name)
        assert not (tmp_path / "made").exists() and "\n" not in str(caught.value)


def small_llava(folder: Path) -> Path:
    """The config of a model that transformers knows, small, and a file of weights that it does not take."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    text = {"model_type": "llama", "vocab_size": 16, **sizes}
    picture = {"model_type": "clip_vision_model", "image_size": 8, "patch_size": 4, **sizes}
    config = {"model_type": "llava", "text_config": text, "vision_config": picture}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"a": torch.ones(1)}, folder / "other.safetensors")
    return folder


@pytest.mark.parametrize(
    "open_part",
    [lambda path: PretrainedModel(path).model, lambda path: PretrainedModel(path).processor("images"), BertScore],
    ids=["model", "processor", "encoder"],
)
def test_code_beside_a_model_of_transformers_is_not_run(
    open_part: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_llava(tmp_path)
    (folder / "code.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n")
    names = ("AutoConfig", "AutoModel", "AutoModelForMultimodalLM", "AutoProcessor", "AutoImageProcessor")
    code = {"auto_map": {**dict.fromkeys(names, "code.Evil"), "AutoTokenizer": ["code.Evil", "code.Evil"]}}
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        known = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        (folder / name).write_text(json.dumps({**known, **code}))
    monkeypatch.setattr("builtins.input", lambda *said: pytest.fail("asks whether to run the code"))
    with pytest.raises(UserError):
        open_part(folder)
    assert not (tmp_path / "was_run").exists()


def test_pickled_weights_beside_a_file_of_safetensors_are_not_taken(tmp_path: Path) -> None:
    folder = small_llava(tmp_path)
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no file named model\.safetensors"):
        _ = PretrainedModel(folder).model
