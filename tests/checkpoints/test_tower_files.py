"""Towers named in a recipe by the file that they were published in; archives are read and never run."""

import json
import pickle
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from openai_archive import save_archive
from tiny_models import TOKENIZER
from torch import nn
from transformers import LlamaTokenizer, WhisperConfig, WhisperModel

from vidtune.checkpoints.build import build_config, build_model
from vidtune.checkpoints.files.tensors import TensorFile, read_state
from vidtune.checkpoints.publication import TowerFile
from vidtune.errors import UserError
from vidtune.models.config import VideoLMConfig
from vidtune.models.towers.base import tower_config
from vidtune.recipe.types import Recipe, Train
from vidtune.registry import SYSTEMS
from vidtune.systems.parts.languagebind import LANGUAGEBIND_TOWER
from vidtune.systems.parts.microsoft_beats import BEATS_TOWER, beats_sizes
from vidtune.systems.parts.openai_clip import CLASS_TOWER
from vidtune.systems.parts.openai_whisper import ENCODER_TOWER
from vidtune.training.estimates.costs import stage_costs

TYPES = {"vision": "clip_class", "audio": "beats", "speech": "whisper"}
FILES = {"vision": CLASS_TOWER, "audio": BEATS_TOWER, "speech": ENCODER_TOWER}
LANGUAGE_MODEL = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
CLIP = {
    "hidden_size": 12,
    "width": 128,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
CFG = {
    "input_patch_size": 16,
    "embed_dim": 24,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 40,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "conv_pos": 8,
    "conv_pos_groups": 4,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "deep_norm": True,
    "num_buckets": 16,
    "max_distance": 20,
}
WHISPER = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "num_mel_bins": 6}


def published_names(tower: nn.Module, file: TowerFile) -> dict[str, torch.Tensor]:
    state = {file.keys.to_theirs(name): tensor for name, tensor in tower.state_dict().items()}
    return file.keys.restore(state) if file.keys.restore else state


def compose(text_config, towers, connectors) -> VideoLMConfig:
    specs = {name: {"type": kind, **towers.get(name, {})} for name, kind in TYPES.items()}
    sizes = {name: tower_config(spec).hidden_size for name, spec in specs.items()}
    mlp = {"type": "mlp", "output_size": text_config.hidden_size, "depth": 1}
    return VideoLMConfig(
        system="three",
        text_config=text_config,
        towers=specs,
        connectors={name: {**mlp, "input_size": size} for name, size in sizes.items()},
        streams={name: {"tower": name, "connector": name} for name in TYPES},
    )


@pytest.fixture(scope="module")
def towers() -> dict[str, nn.Module]:
    torch.manual_seed(3)
    return {
        "vision": tower_config({"type": "clip_class", **CLIP}).build(),
        "audio": tower_config({"type": "beats", **beats_sizes(CFG)}).build(),
        "speech": tower_config({"type": "whisper", **ENCODER_TOWER.read_sizes(whisper_config(), {})}).build(),
    }


def whisper_config() -> dict:
    return {"model_type": "whisper", **WHISPER, "max_source_positions": 300}


@pytest.fixture(scope="module")
def files(towers, tmp_path_factory) -> dict[str, Path]:
    """The three towers as they are published: an archive, settings with tensors, a folder with its decoder."""
    folder = tmp_path_factory.mktemp("published")
    save_archive(published_names(towers["vision"], CLASS_TOWER), folder / "ViT.pt")
    torch.save({"cfg": CFG, "model": published_names(towers["audio"], BEATS_TOWER)}, folder / "BEATs.pt")
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "vocab_size": 9}
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 8, "max_target_positions": 4}
    whole = WhisperModel(WhisperConfig(**whisper_config(), **tokens, **decoder))
    whole.encoder.load_state_dict(towers["speech"].encoder.state_dict())
    whole.save_pretrained(folder / "whisper")
    return {"vision": folder / "ViT.pt", "audio": folder / "BEATs.pt", "speech": folder / "whisper"}


@pytest.fixture
def make_recipe(tmp_path):
    like = SYSTEMS["video_llava"]
    system = replace(
        like,
        name="three",
        architecture=replace(like.architecture, build_config=compose),
        publication=replace(like.publication, towers=FILES),
    )
    SYSTEMS.register("three", system)
    shutil.copy(TOKENIZER, tmp_path / "tokenizer.model")
    LlamaTokenizer.from_pretrained(str(tmp_path)).save_pretrained(tmp_path)

    def make(paths: dict[str, Path]) -> Recipe:
        named = {name: str(path) for name, path in paths.items()}
        return Recipe.model_validate(
            {"system": "three", "language_model": LANGUAGE_MODEL, "tokenizer": str(tmp_path), "towers": named}
        )

    yield make
    SYSTEMS.unregister("three")


def shapes_of(path):
    return TensorFile(path).shapes


def test_a_recipe_names_towers_by_their_published_files(make_recipe, files, towers):
    reports = []
    model = build_model(make_recipe(files), reports=reports)
    for name, tower in towers.items():
        assert model.towers[name].config == tower.config
        ours = model.towers[name].state_dict()
        assert ours.keys() == tower.state_dict().keys()
        assert all(torch.equal(ours[key], tensor) for key, tensor in tower.state_dict().items()), name
    left_out = {report.format: list(report.left_out) for report in reports}
    assert left_out == {"towers.vision": ["the text tower"], "towers.audio": [], "towers.speech": ["the decoder"]}


def test_sizes_are_read_without_reading_weights(make_recipe, files, monkeypatch):
    monkeypatch.setattr(
        "vidtune.checkpoints.files.tensors.TensorFile.read", lambda *name: pytest.fail("weights were read")
    )
    monkeypatch.setattr("vidtune.foreign.torch_files.TorchFile.read", lambda *stored: pytest.fail("weights were read"))
    config = build_config(make_recipe(files))
    assert config.tower("vision").width == 128 and config.tower("vision").num_attention_heads == 2
    assert config.tower("audio").num_buckets == 16
    assert config.tower("speech").max_source_positions == 300


@pytest.mark.whole
def test_costs_of_training_the_towers_are_counted(make_recipe, files):
    """Sizes, memory and operations are found without computing a number, so towers must not look at any."""
    config = build_config(make_recipe(files))
    config.towers["audio"] = {**config.towers["audio"], "layer_dropout": 0.5}
    frozen = stage_costs(config, {"connectors.audio": Train(learning_rate=1.0)}, "float32").items
    trained = stage_costs(config, {f"towers.{name}": Train(learning_rate=1.0) for name in TYPES}, "float32").items
    for name in TYPES:
        assert trained[name].flops > 2.5 * frozen[name].flops > 0


@pytest.mark.parametrize(
    ("tower", "other", "message"),
    [
        ("audio", "vision", "holds no settings"),
        ("vision", "audio", r"no tensor visual\.proj"),
        ("speech", "audio", "give the folder with its config.json"),
        ("vision", "speech", "'whisper' is not CLIP"),
    ],
)
def test_the_file_of_another_tower_is_refused(make_recipe, files, tower, other, message):
    with pytest.raises(UserError, match=message) as caught:
        build_model(make_recipe({tower: files[other]}))
    assert str(caught.value).startswith(f"towers.{tower}: {files[other]}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": "wide"}, "d_model is 'wide'; expected a whole number"),
        ({"encoder_attention_heads": 3}, "does not divide into 3 heads"),
        ({"model_type": "bert"}, "'bert' is not Whisper"),
    ],
)
def test_settings_that_cannot_be_are_one_line(make_recipe, tmp_path, change, message):
    folder = tmp_path / "whisper"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**whisper_config(), **change}))
    with pytest.raises(UserError, match=message) as caught:
        build_config(make_recipe({"speech": folder}))
    assert "\n" not in str(caught.value)


def test_a_file_for_a_tower_that_is_published_in_folders_is_refused(make_recipe, files, monkeypatch):
    like = SYSTEMS["three"]
    files_in_folders = dict.fromkeys(FILES, LANGUAGEBIND_TOWER)
    system = replace(like, publication=replace(like.publication, towers=files_in_folders))
    monkeypatch.setitem(SYSTEMS.loaded, "three", system)
    with pytest.raises(UserError, match="give the folder with its config"):
        build_config(make_recipe({"audio": files["audio"]}))


def test_missing_and_strange_tensors_of_a_file_are_refused(make_recipe, files, towers, tmp_path):
    state = published_names(towers["audio"], BEATS_TOWER)
    for name, changed in (
        ("lacking", {key: tensor for key, tensor in state.items() if key != "encoder.layers.1.fc1.bias"}),
        ("strange", {**state, "encoder.layers.1.fc3.bias": torch.ones(2)}),
    ):
        torch.save({"cfg": CFG, "model": changed}, tmp_path / name)
        with pytest.raises(UserError, match=r"layers\.1\.fc[13]\.bias"):
            build_model(make_recipe({**files, "audio": tmp_path / name}))


def test_an_old_pickle_without_a_zip_file_is_read(towers, tmp_path):
    state = published_names(towers["audio"], BEATS_TOWER)
    content = {"cfg": CFG, "model": state}
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert read_state(tmp_path / "old.pt").keys() == state.keys()
    file = TensorFile(tmp_path / "old.pt")
    assert file.settings == CFG and file.shapes["encoder.layers.0.fc1.weight"] == (40, 32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
def test_an_archive_gives_what_torch_reads_from_it(towers, tmp_path, dtype):
    state = {name: tensor.to(dtype) for name, tensor in published_names(towers["vision"], CLASS_TOWER).items()}
    path = save_archive(state, tmp_path / "ViT.pt")
    theirs, ours = torch.jit.load(path).state_dict(), read_state(path)
    assert ours.keys() == theirs.keys() and ours["visual.proj"].dtype == dtype
    assert all(torch.equal(ours[name], tensor) and ours[name].shape == tensor.shape for name, tensor in theirs.items())
    file = TensorFile(path)
    assert file.settings == {} and file.shapes == {name: tuple(tensor.shape) for name, tensor in theirs.items()}


class Views(nn.Module):
    """Tensors that share numbers, stand the other way round, or have none."""

    def __init__(self) -> None:
        super().__init__()
        numbers = torch.arange(12.0)
        for name, tensor in (("part", numbers[3:7]), ("turned", numbers.view(3, 4).T), ("none", torch.ones(0, 4))):
            self.register_buffer(name, tensor)
        self.register_buffer("count", torch.tensor(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.part


def test_views_in_an_archive_keep_their_numbers(tmp_path):
    torch.jit.save(torch.jit.script(Views()), tmp_path / "views.pt")
    ours = read_state(tmp_path / "views.pt")
    assert ours["part"].tolist() == [3.0, 4.0, 5.0, 6.0] and ours["turned"].tolist()[1] == [1.0, 5.0, 9.0]
    assert ours["none"].shape == (0, 4) and ours["count"] == 7


class Writer(nn.Module):
    """Restores itself by writing a file: what a stranger's archive may do when torch loads it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.weight = torch.ones(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self):
        return (self.training, self.path)

    @torch.jit.export
    def __setstate__(self, state: tuple[bool, str]):
        self.training = state[0]
        self.path = state[1]
        self.weight = torch.from_file(state[1], True, 4)


def test_code_in_an_archive_is_not_run(tmp_path):
    archive, trace = tmp_path / "writer.pt", tmp_path / "was_run"
    torch.jit.save(torch.jit.script(Writer(str(trace))), archive)
    assert not trace.exists()
    with pytest.raises(UserError, match="code of its own, which is not run"):
        read_state(archive)
    assert not trace.exists()
    torch.jit.load(archive)
    assert trace.exists(), "torch runs it: the test above would prove nothing otherwise"


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def rewritten(source: Path, target: Path, **records: bytes) -> Path:
    """A copy of an archive, some of its records replaced; None leaves one out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = records.get(Path(name).name.replace(".", "_"), old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


@pytest.mark.parametrize("protocol", [2, 4])
def test_an_archive_that_calls_functions_is_refused(files, tmp_path, protocol):
    trace = tmp_path / "was_called"
    evil = pickle.dumps(Call(Path.touch, trace), protocol)
    pickle.loads(evil)
    assert trace.exists()
    trace.unlink()
    path = rewritten(files["vision"], tmp_path / "evil.pt", data_pkl=evil)
    for reader in (read_state, shapes_of):
        with pytest.raises(UserError, match=r"evil\.pt: not a readable file of tensors \(it names "):
            reader(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [pickle.dumps({"a": 1}), pickle.dumps([1]), b"", b"\x80\x02]q\x00h\x01.", b"\x80\x02U\x05abc"],
    ids=["dict", "list", "empty", "memo", "cut"],
)
def test_an_archive_with_a_broken_tree_is_one_line(files, tmp_path, content):
    path = rewritten(files["vision"], tmp_path / "broken.pt", data_pkl=content)
    with pytest.raises(UserError, match=r"broken\.pt: not a readable file of tensors"):
        read_state(path)


def test_an_archive_whose_numbers_are_cut_is_one_line(files, tmp_path):
    with zipfile.ZipFile(files["vision"]) as archive:
        record = max((info for info in archive.infolist() if "/data/" in info.filename), key=lambda i: i.file_size)
        numbers = archive.read(record)
    name = Path(record.filename).name
    with pytest.raises(UserError, match=f"record {name} has {len(numbers) // 2} bytes"):
        read_state(rewritten(files["vision"], tmp_path / "cut.pt", **{name: numbers[: len(numbers) // 2]}))
    with pytest.raises(UserError, match="not a readable file of tensors"):
        read_state(rewritten(files["vision"], tmp_path / "less.pt", **{name: None}))


def test_a_pickle_with_other_values_among_its_tensors_is_refused(towers, tmp_path):
    state = published_names(towers["audio"], BEATS_TOWER)
    torch.save({"cfg": CFG, "model": {**state, "epoch": 3}}, tmp_path / "mixed.pt")
    for reader in (read_state, shapes_of):
        with pytest.raises(UserError, match=r"mixed\.pt: .*'epoch' is no tensor"):
            reader(tmp_path / "mixed.pt")


def test_a_pickle_with_more_than_weights_is_refused(tmp_path):
    trace = tmp_path / "was_called"
    torch.save({"cfg": Call(Path.touch, trace), "model": {}}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"evil\.pt: not a readable file of tensors"):
        shapes_of(tmp_path / "evil.pt")
    assert not trace.exists()
