"""What a LoRA stage leaves behind: only adapters and named parts change; read back, it is the trained model."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from vidtune.checkpoints.build import build_model
from vidtune.checkpoints.load import load_checkpoint
from vidtune.checkpoints.lora.adapter_files import is_adapter_weight
from vidtune.checkpoints.write import save_checkpoint
from vidtune.data.sample import MediaRef, Sample, Turn
from vidtune.errors import UserError
from vidtune.processing.batch import Batch, pack
from vidtune.training.result import write_result
from vidtune.training.setup.parameters import parameter_groups
from vidtune.training.setup.stage import StageSetup, set_up

LORA = {"learning_rate": 1e-2, "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}
TRAIN: dict[str, Any] = {
    "language_model": LORA,
    "towers.video": {"learning_rate": 1e-3, "lora": {"rank": 2, "layers": ["q_proj", "fc1"]}},
    "connectors": 1e-3,
}


def make_batch(setup: StageSetup, media: Path) -> Batch:
    """A video and an image with a question each."""
    examples = []
    for stream, file in (("video", "red.mp4"), ("image", "blue.png")):
        turns = (Turn("user", f"<{stream}>\nWhich colour?"), Turn("assistant", "it is red."))
        sample = Sample(stream, turns, (MediaRef(stream, str(media / file)),))
        examples.append(setup.processor.example(sample, setup.prompt))
    streams = setup.processor.streams
    return pack(examples, [[streams[s.stream].preprocessing.load(s.ref.path) for s in e.media] for e in examples])


def train_steps(setup: StageSetup, batch: Batch) -> None:
    optimizer = torch.optim.AdamW(parameter_groups(setup.model, setup.trained, 0.0))
    for step in range(3):
        torch.manual_seed(step)
        (setup.model.loss_sum(batch) / batch.num_supervised).backward()
        optimizer.step()
        optimizer.zero_grad()


def leave_result(setup: StageSetup, folder: Path) -> Path:
    trained = {name for name, parameter in setup.model.named_parameters() if parameter.requires_grad}
    folder.mkdir()
    write_result(setup, folder, {n: t for n, t in setup.model.state_dict().items() if n in trained})
    return folder


def logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model(
            batch.input_ids, position_ids=batch.position_ids, cu_seqlens=batch.cu_seqlens, media=batch.media
        ).logits


class Trained(NamedTuple):
    setup: StageSetup
    before: dict[str, torch.Tensor]
    folder: Path
    batch: Batch


@pytest.fixture(scope="module")
def trained(make_recipe, media: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    out = tmp_path_factory.mktemp("out")
    setup = set_up(make_recipe(train=TRAIN), 0, out)
    before = {name: tensor.clone() for name, tensor in setup.model.state_dict().items()}
    batch = make_batch(setup, media)
    train_steps(setup, batch)
    setup.model.eval()
    return Trained(setup, before, leave_result(setup, out / "bundle"), batch)


@pytest.fixture
def copy(trained: Trained, tmp_path: Path) -> Path:
    return shutil.copytree(trained.folder, tmp_path / "bundle")


def test_adapters_and_named_components_change_and_frozen_weights_do_not(trained: Trained) -> None:
    after = trained.setup.model.state_dict()
    assert after.keys() == trained.before.keys()
    changed = {name for name in after if not torch.equal(after[name], trained.before[name])}
    expected = {name for name in after if is_adapter_weight(name) or name.startswith("connectors.")}
    # The tower's features come from its last but one layer: the last one is never run.
    assert changed == {name for name in expected if not name.startswith("towers.video.encoder.layers.1.")}
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name in changed if name.startswith("towers.video")}
    assert adapted == {"q_proj", "fc1"}


def test_every_component_keeps_its_rate(trained: Trained) -> None:
    groups = parameter_groups(trained.setup.model, trained.setup.trained, weight_decay=0.1)
    rates = {group["component"]: group["lr"] for group in groups}
    assert rates == {"towers.video": 1e-3, "connectors.visual": 1e-3, "language_model": 1e-2}
    count = sum(parameter.numel() for group in groups for parameter in group["params"])
    assert count == sum(p.numel() for p in trained.setup.model.parameters() if p.requires_grad)


def test_loaded_bundle_is_the_trained_model_with_its_adapters_merged(trained: Trained) -> None:
    loaded = load_checkpoint(trained.folder)
    assert loaded.model.state_dict().keys() == build_model(trained.setup.recipe).state_dict().keys()
    ours, theirs = logits(trained.setup.model, trained.batch), logits(loaded.model, trained.batch)
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    assert float((ours - logits(build_model(trained.setup.recipe), trained.batch)).abs().max()) > 1e-2
    assert loaded.processor.streams == trained.setup.processor.streams
    assert loaded.report.missing == loaded.report.unexpected == []


def test_bundle_holds_no_frozen_weight(trained: Trained) -> None:
    held = [load_file(path) for path in trained.folder.rglob("*.safetensors") if path.name != "base_sample.safetensors"]
    count = sum(p.numel() for p in trained.setup.model.parameters() if p.requires_grad)
    assert sum(tensor.numel() for state in held for tensor in state.values()) == count


def test_peft_reads_the_adapters_onto_our_components(trained: Trained) -> None:
    from peft import PeftModel

    ours, start = load_checkpoint(trained.folder).model, build_model(trained.setup.recipe)
    for component, folder in (("language_model", "."), ("towers.video", "towers.video")):
        part = start.get_submodule(component)
        merged = PeftModel.from_pretrained(part, str(trained.folder / folder)).merge_and_unload()
        for name, tensor in ours.get_submodule(component).state_dict().items():
            torch.testing.assert_close(merged.state_dict()[name], tensor, atol=1e-6, rtol=0, msg=name)


def test_merged_whole_checkpoint_equals_the_bundle(trained: Trained, tmp_path: Path) -> None:
    loaded = load_checkpoint(trained.folder)
    save_checkpoint(loaded, tmp_path / "whole")
    whole = load_checkpoint(tmp_path / "whole").model.state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in loaded.model.state_dict().items())


def test_bundle_with_another_base_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / "bundle.json").read_text())
    manifest["base"]["parts"]["seed"] = 43
    (copy / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"trained on another model .* differs; give the right one with --model-base"):
        load_checkpoint(copy)


def test_bundle_whose_base_is_gone_says_how_to_give_it(copy: Path, trained: Trained, tmp_path: Path) -> None:
    build_model(trained.setup.recipe).save_pretrained(tmp_path / "base")
    manifest = json.loads((copy / "bundle.json").read_text())
    manifest["base"] = {"checkpoint": str(tmp_path / "moved")}
    (copy / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"checkpoint .* is not at .*moved; give its place with --model-base, or mend"):
        load_checkpoint(copy)
    trained.setup.processor.save_pretrained(tmp_path / "base")
    found = load_checkpoint(copy, base=str(tmp_path / "base")).model.state_dict()
    expected = load_checkpoint(trained.folder).model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.mark.parametrize("kind", ["bundle", "vidtune", "official"])
def test_frozen_weights_are_loaded_in_the_frozen_precision_and_trained_ones_in_float32(
    make_recipe, trained: Trained, tmp_path: Path, kind: str
) -> None:
    loaded = load_checkpoint(trained.folder)
    start = trained.folder
    if kind != "bundle":
        start = tmp_path / "start"
        save_checkpoint(loaded, start, kind)
    stage = {"from": str(start), "precision": "bfloat16", "train": {"language_model": LORA, "connectors": 1.0}}
    model = set_up(make_recipe(stages=[stage]), 0, tmp_path).model
    for name, parameter in model.named_parameters():
        wanted = torch.float32 if parameter.requires_grad else torch.bfloat16
        assert parameter.dtype == wanted, name
        if not is_adapter_weight(name):
            stored = loaded.model.get_parameter(name.replace(".base_layer", ""))
            merged_before = kind == "bundle" and (".base_layer" in name or "towers.video" in name)
            assert merged_before or torch.equal(parameter, stored.to(wanted)), name
    assert model.language_model.model.rotary_emb.inv_freq.dtype == torch.float32
