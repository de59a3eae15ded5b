"""Our Artemis against tensors and tokens of the official code; every size is read from the fixture.

The tower, its averaged clips and the region module; frames, boxes and feature files; the model around them: splicing,
logits, loss, gradients, published files; prompts.
"""

import json
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from artemis_fixture import FOLDER, close, read, region_sizes, tower_sizes
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig

from vidtune.checkpoints.assembly.fill import model_from_state
from vidtune.checkpoints.load import Checkpoint, load_checkpoint
from vidtune.checkpoints.recognise import recognise
from vidtune.checkpoints.report import LoadReport, rename
from vidtune.checkpoints.write import export_state, save_checkpoint
from vidtune.data.sample import Turn
from vidtune.errors import UserError
from vidtune.media.feature_file import read_features
from vidtune.media.preprocessing.box_choice import chosen_boxes
from vidtune.media.preprocessing.frame_sampling import frame_indices
from vidtune.media.preprocessing.regions import RegionPreprocessing
from vidtune.models.connectors.clustering import k_means, representatives, start_points
from vidtune.models.connectors.region import RegionConnector, RegionConnectorConfig
from vidtune.models.towers.clip_pooled import PooledClipTower, PooledClipTowerConfig, pooled
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Batch, Item
from vidtune.processing.prompts.placing import placed
from vidtune.processing.tokenizer import ChunkTokenizer, load_tokenizer
from vidtune.processing.tokenizing import Placeholder, encode
from vidtune.registry import SYSTEMS

SYSTEM = SYSTEMS["artemis"]
FORMATS = {format.name: format for format in SYSTEM.publication.formats}
IMAGE, REGION, IGNORED = -200, -500, -100

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no artemis fixtures in this folder")


def weights_below(prefix: str) -> dict[str, torch.Tensor]:
    """Weights of the original below a prefix, which is cut off."""
    found = read("weights.safetensors")
    return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def config() -> dict:
    return read("config.json")


@pytest.fixture(scope="module")
def inputs() -> dict:
    return read("inputs.safetensors")


@pytest.fixture(scope="module")
def expected() -> dict:
    return read("expected.safetensors")


# Parts: the tower, its averaged clips, and the region module.


def of_samples(rows: torch.Tensor, config: dict) -> torch.Tensor:
    """Rows of boxes by sample, that of the key box first. Shape: (B * N, *) -> (B, N, *)"""
    return rows.unflatten(0, (-1, 1 + config["num_trackbox"]))


def load_region(config: dict, **changes) -> RegionConnector:
    connector = RegionConnectorConfig(**{**region_sizes(config), **changes}).build().eval()
    connector.load_state_dict(weights_below("model.spi_model."))
    return connector


@pytest.fixture(scope="module")
def tower(config) -> PooledClipTower:
    built = PooledClipTowerConfig(**tower_sizes(config)).build().eval()
    built.load_state_dict(weights_below("model.image_tower.vision_tower.vision_model."))
    return built


@pytest.fixture(scope="module")
def region(config) -> RegionConnector:
    return load_region(config)


@pytest.fixture(scope="module")
def states(config, inputs, tower) -> torch.Tensor:
    """Tapped states of the frames of all boxes: (18, K, G, G, C)."""
    with torch.no_grad():
        tapped = tower(inputs["A.box_images"], config["region"]["level_hidden_state_indices"])
    side = config["region"]["base_grid"]
    return tapped.unflatten(2, (side, side))


def test_hidden_states_of_frames(config, inputs, expected, tower):
    frames, layer = inputs["st.frames_pixel_values"], config["mm_vision_select_layer"]
    with torch.no_grad():
        wanted = list(tower.hidden_states(frames))[layer]
        close(wanted, expected[f"clip.hidden_states_minus{-layer}"])
        features = tower(frames)
    close(features, expected["st.frame_features_f16"], atol=1e-2)


def test_averaged_clips(config, inputs, expected, tower):
    features = expected["st.frame_features_f16"]
    rows = config["num_temporal_tokens"]
    half = pooled(features[None], rows)[0]
    assert half.dtype == torch.float16
    close(half, expected["st.pooled_f16"], atol=1e-2)
    clip = inputs["st.frames_pixel_values"].transpose(0, 1)
    assert tower.config.num_tokens(tuple(clip.shape)) == len(expected["st.pooled_f32"])
    with torch.no_grad():
        close(tower(clip[None])[0], expected["st.pooled_f32"])
    for name in [name for name in expected if name.startswith("st_long.pooled_num_temporal_")]:
        rows = int(name.rpartition("_")[2])
        close(pooled(inputs["st_long.features"][None], rows)[0], expected[name], atol=1e-6)


def test_tapped_levels(config, states, expected):
    for level in range(config["region"]["num_levels"]):
        close(states[:1, level].flatten(1, 2), expected[f"A.mlvl_hidden.level{level}"])


@pytest.fixture(scope="module")
def maps(region, states) -> list[torch.Tensor]:
    with torch.no_grad():
        return region.mlvl_fuse(states)


def test_fused_maps(config, maps, expected):
    for level, found in enumerate(maps):
        assert found.shape[-1] == config["region"]["level_sizes"][level]
        close(found.mean((2, 3)), expected[f"A.fused_map.level{level}.mean"])
        close(found.std((2, 3), correction=0), expected[f"A.fused_map.level{level}.std"])
    for level in [level for level in range(len(maps)) if f"A.fused_map.level{level}" in expected]:
        wanted = expected[f"A.fused_map.level{level}"]
        close(maps[level][: len(wanted)], wanted)
    close(maps[0][0, :, ::16, ::16], expected["A.fused_map.level0_image0_sub16"])


def test_crops_and_tokens_of_boxes(region, maps, inputs, expected):
    boxes, module = inputs["A.bboxes"], region.roi_align
    with torch.no_grad():
        crops = module.crops(maps, boxes)
        for level, found in enumerate(crops):
            wanted = expected[f"A.roi_align.level{level}"]
            close(found[: len(wanted)], wanted)
        fused = torch.relu(sum(conv(crop[:1]) for conv, crop in zip(module.pconvs, crops, strict=True)))
        close(fused.flatten(1), expected["A.roi_fused_flat"])
        close(module.pos_embedd(boxes), expected["A.roi_pos_embed"])
        close(module(crops, boxes), expected["A.region_tokens_all"])


def test_tokens_in_the_precision_of_the_original(config, states, expected):
    some, half = slice(3), load_region(config, half=True)
    wanted = expected["A.region_tokens_all_fp16_run"][some].float()
    with torch.no_grad():
        tokens = half.box_tokens(states[some], expected["A.bboxes_half_as_original"][some].float())
    close(tokens, wanted, atol=0.1)
    assert not torch.equal(tokens, expected["A.region_tokens_all"][some])  # the roundings are there


def test_clusters_of_tracked_boxes(config, expected):
    sizes, selected = config["kmeans"], expected["A.kmeans.selected_track_index"]
    for sample, tokens in enumerate(of_samples(expected["A.region_tokens_all"], config)):
        starts = start_points(config["num_trackbox"], sizes["n_clusters"], sizes["num_init"], sizes["seed"])
        assert torch.equal(starts, expected[f"A.kmeans.{sample}.init_idx"])
        labels, centres, inertia = k_means(tokens[None, 1:], starts, sizes["max_iter"])
        assert torch.equal(labels[0], expected[f"A.kmeans.{sample}.labels"])
        close(centres[0], expected[f"A.kmeans.{sample}.centers"])
        torch.testing.assert_close(inertia, expected[f"A.kmeans.{sample}.inertia"], rtol=1e-5, atol=0)
        assert torch.equal(representatives(labels, sizes["n_clusters"])[0], selected[sample])
    assert len(selected) == sample + 1


def test_fewer_clusters_than_wanted(config, inputs, expected):
    points, starts = inputs["kmeans_dup.x"], expected["kmeans_dup.init_idx"]
    labels, _, inertia = k_means(points[None], starts, config["kmeans"]["max_iter"])
    assert torch.equal(labels[0], expected["kmeans_dup.labels"])
    torch.testing.assert_close(inertia, expected["kmeans_dup.inertia"], atol=1e-6, rtol=1e-5)
    assert torch.equal(representatives(labels, starts.shape[1])[0], expected["kmeans_dup.selected"])


def test_tokens_that_stand_in_the_prompt(config, region, states, inputs, expected):
    features = of_samples(states.flatten(2, 3), config)  # (samples, boxes, K, P, C)
    boxes = of_samples(inputs["A.bboxes"], config)
    items = [
        (frames.transpose(0, 1).flatten(1, 2), {"boxes": given})
        for sample, place in zip(features, boxes, strict=True)
        for frames, given in ((sample[:1], place[:1]), (sample[1:], place[1:]))
    ]
    with torch.no_grad():
        tokens = region([block for block, _ in items], [more for _, more in items])
    close(torch.cat(tokens), expected["A.region_tokens_selected"].flatten(0, 1))


# Data: frames, boxes, feature files.


def test_frames_of_a_clip(inputs, expected):
    args = (inputs | expected)["seq_frames.args"].tolist()
    assert args
    for row, (frames, wanted) in enumerate(args):
        assert frame_indices("segment_middles", frames, wanted) == expected[f"seq_frames.{row}"].tolist()


def test_boxes_of_a_long_track(inputs, expected):
    valid = (inputs | expected)["bench_avg.valid_frames"]
    for name in [name for name in expected if name.startswith("bench_avg.selected_")]:
        wanted = expected[name]
        assert torch.equal(valid[chosen_boxes(len(valid), len(wanted))], wanted)


def test_boxes_as_fractions_of_the_frame(inputs, tmp_path):
    boxes = inputs["A.boxes_px"]
    Image.new("RGB", tuple(inputs["A.image_wh"].tolist())).save(tmp_path / "frame.png")
    steps = RegionPreprocessing(size=8, num_boxes=len(boxes), blind=True)
    _, found = steps.load_item(str(tmp_path / "frame.png"), {"boxes": boxes.numpy().astype("float32")})
    assert torch.equal(torch.from_numpy(found["boxes"]), inputs["A.bboxes"])


def test_features_as_they_were_pickled(expected, tmp_path):
    wanted = expected["st.pooled_f16"].numpy()
    (tmp_path / "clip.pkl").write_bytes(pickle.dumps(wanted))
    found = read_features(str(tmp_path / "clip.pkl"))
    assert found.dtype == wanted.dtype and (found == wanted).all()


# The model: splicing, logits, loss, gradients, files, prompts.


@pytest.fixture(scope="module")
def weights() -> dict:
    return read("weights.safetensors")


def make_config(config: dict, **region):
    text = AutoConfig.for_model("llama", **config["llm"])
    built = SYSTEM.architecture.build_config(
        text, {"clip": tower_sizes(config)}, {"region": {**region_sizes(config), **region}}
    )
    assert list(built.taps("box")) == list(built.taps("track")) == config["region"]["level_hidden_state_indices"]
    return built


def make_model(config: dict, weights: dict, **region) -> VideoLM:
    report = LoadReport("official")
    model = model_from_state(make_config(config, **region), rename(weights, FORMATS["official"].keys, report), report)
    report.refuse_gaps(FOLDER)
    return model.eval()


@pytest.fixture(scope="module")
def model(config, weights) -> VideoLM:
    return make_model(config, weights)


@pytest.fixture(scope="module")
def unclustered(config, weights) -> VideoLM:
    return make_model(config, weights, clusters=None)


def close_loss(actual: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(actual.detach(), wanted, atol=0, rtol=1e-5)


Sample = tuple[torch.Tensor, torch.Tensor, dict[str, list[Item]]]
"""Ids with a placeholder for every media token, labels, and the media of one sample."""


def target(model: VideoLM, images: torch.Tensor, boxes: torch.Tensor) -> dict[str, list[Item]]:
    """Key box and tracked boxes as items."""
    found = {}
    for stream, span in (("box", slice(0, 1)), ("track", slice(1, None))):
        values = images[span].transpose(0, 1)
        tokens = model.config.num_tokens(stream, tuple(values.shape))
        found[stream] = [Item(values, tokens, extras={"boxes": boxes[span]})]
    return found


def made(model: VideoLM, ids: torch.Tensor, labels: torch.Tensor, media: dict[str, list[Item]]) -> Sample:
    """Official ids, in which a medium or a box is one placeholder -> ours."""
    first = media.get("image", media.get("video", ()))
    repeats = torch.ones_like(ids)
    if first:
        repeats[ids == IMAGE] = first[0].num_tokens
    found = ids.clone()
    found[ids == IMAGE] = model.config.placeholder_ids["image" if "image" in media else "video"]
    boxes = torch.nonzero(ids == REGION).flatten()
    found[boxes[:1]], found[boxes[1:]] = (model.config.placeholder_ids[stream] for stream in ("box", "track"))
    labels = labels.clone()
    labels[0] = IGNORED
    return found.repeat_interleave(repeats), labels.repeat_interleave(repeats), media


def samples_of(model: VideoLM, inputs: dict, case: str) -> list[Sample]:
    videos, found = inputs["A.video_feats"], []
    stored = len(inputs["A.bboxes"]) // len(inputs["A.input_ids"])
    # Case D is without K-means: a box for each placeholder.
    boxes = int((inputs["D.input_ids"][0] == REGION).sum()) if case == "D" else stored
    for row in range(len(inputs[f"{case}.input_ids"])):
        if case == "C":
            picture = Item(inputs["C.image"], model.config.num_tokens("image", tuple(inputs["C.image"].shape)))
            video = Item(videos[1], len(videos[1]), encoded=True)
            media: dict[str, list[Item]] = [{"image": [picture]}, {"video": [video]}, {}][row]
        else:
            own = slice(stored * row, stored * row + boxes)
            media = target(model, inputs["A.box_images"][own], inputs["A.bboxes"][own])
            media["video"] = [Item(videos[row], len(videos[row]), encoded=True)]
        ids = inputs[f"{case}.input_ids"][row]
        labels, mask = inputs.get(f"{case}.labels"), inputs.get(f"{case}.attention_mask")
        kept = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask[row].bool()
        ids, labels = ids[kept], (ids if labels is None else labels[row])[kept]
        found.append(made(model, ids, labels, media))
    return found


def joined(samples: list[Sample]) -> dict[str, list[Item]]:
    streams = dict.fromkeys(stream for _, _, media in samples for stream in media)
    return {stream: [item for _, _, media in samples for item in media.get(stream, [])] for stream in streams}


def padded(samples: list[Sample], side: str = "right", limit: int | None = None):
    """Ids, labels, mask and positions as the official splicer leaves them."""
    rows = [(ids[:limit], labels[:limit]) for ids, labels, _ in samples]
    length = max(len(ids) for ids, _ in rows)
    ids, labels = torch.zeros(len(rows), length, dtype=torch.long), torch.full((len(rows), length), IGNORED)
    mask, positions = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids)
    for row, (own, learned) in enumerate(rows):
        span = slice(0, len(own)) if side == "right" else slice(length - len(own), length)
        ids[row, span], labels[row, span], mask[row, span] = own, learned, True
        positions[row, span] = torch.arange(len(own))
    return ids, labels, mask, positions


def packed(samples: list[Sample]) -> Batch:
    lengths = [len(ids) for ids, _, _ in samples]
    return Batch(
        input_ids=torch.cat([ids for ids, _, _ in samples])[None],
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        labels=torch.cat([labels for _, labels, _ in samples])[None],
        cu_seqlens=[0, *np.cumsum(lengths).tolist()],
        ids=[str(number) for number in range(len(samples))],
        media=joined(samples),
    )


def forward(model: VideoLM, inputs: dict, case: str, side: str = "right", grad: bool = False):
    samples = samples_of(model, inputs, case)
    ids, labels, mask, positions = padded(samples, side)
    with torch.set_grad_enabled(grad):
        embeds = model.embed(ids, joined(samples))
        output = model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, labels=labels)
    return embeds, output, labels, mask, positions


def check_logits(output, mask: torch.Tensor, expected: dict, case: str) -> None:
    for name, span in (("logits_every4", slice(None, None, 4)), ("logits_last40", slice(-40, None))):
        close(output.logits[:, span][mask[:, span]], expected[f"{case}.{name}"][mask[:, span]])
    close_loss(output.loss, expected[f"{case}.loss"])


PARTS = {
    "image_tower": ("towers.",),
    "mm_projector": ("connectors.visual.",),
    "spi_fuse": ("connectors.region.mlvl_fuse.",),
    "spi_roi": ("connectors.region.roi_align.",),
    "embed_tokens": ("language_model.model.embed_tokens.",),
    "llm_layers": ("language_model.model.layers.",),
    "lm_head": ("language_model.lm_head.",),
}


def trained(model: VideoLM) -> VideoLM:
    """The model with everything but its tower to be trained."""
    model.requires_grad_(True)
    model.towers.requires_grad_(False)
    model.zero_grad(set_to_none=True)
    return model


def check_gradients(model: VideoLM, expected: dict, case: str) -> None:
    for part, prefixes in PARTS.items():
        own = [p.grad for name, p in model.named_parameters() if name.startswith(prefixes) and p.grad is not None]
        squares = [grad.square().sum() for grad in own]
        norm = torch.stack(squares).sum().sqrt() if squares else torch.tensor(0.0)
        torch.testing.assert_close(norm, expected[f"{case}.grad_norm.{part}"], atol=1e-7, rtol=1e-3)
    model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("case", ["A", "C", "D"])
def test_spliced_embeddings_logits_loss_and_gradients_agree(case, model, unclustered, inputs, expected):
    asked = unclustered if case == "D" else trained(model)
    embeds, output, labels, mask, positions = forward(asked, inputs, case, grad=case == "A")
    assert torch.equal(mask, expected[f"{case}.attention_mask"].bool())
    assert torch.equal(labels, expected[f"{case}.labels"])
    assert torch.equal(positions * mask, expected[f"{case}.position_ids_if_given"] * mask)
    every = 1 if case == "A" else 4
    close(embeds[:, ::every][mask[:, ::every]], expected[f"{case}.inputs_embeds"][mask[:, ::every]])
    if case == "A":
        found = torch.stack([embeds[row, expected[f"A.region_positions.{row}"]] for row in range(len(embeds))])
        close(found, expected["A.region_tokens_selected"])
        output.loss.backward()
        check_gradients(model, expected, "A")
    check_logits(output, mask, expected, case)


def test_padding_on_the_left_agrees(model, inputs, expected):
    _, output, labels, mask, positions = forward(model, inputs, "C", "left")
    assert torch.equal(mask, expected["C_left.attention_mask"].bool())
    assert torch.equal(labels, expected["C_left.labels"])
    assert torch.equal(positions * mask, expected["C_left.position_ids_if_given"] * mask)
    close_loss(output.loss, expected["C_left.loss"])


def test_a_length_limit_after_splicing_agrees(model, inputs, expected):
    samples = samples_of(model, inputs, "C")
    for case in {name.partition(".")[0] for name in expected if name.startswith("E_trunc")}:
        ids, labels, mask, positions = padded(samples, limit=int(case.removeprefix("E_trunc")))
        assert torch.equal(labels, expected[f"{case}.labels"])
        assert torch.equal(mask, expected[f"{case}.attention_mask"].bool())
        assert torch.equal(positions * mask, expected[f"{case}.position_ids_if_given"] * mask)
        media = joined(samples)
        for stream, items in media.items():
            left = int((ids == model.config.placeholder_ids[stream]).sum())
            media[stream] = [replace(items[0], num_tokens=left)]
        with torch.no_grad():
            close_loss(model(ids, attention_mask=mask, labels=labels, media=media).loss, expected[f"{case}.loss"])


def test_gradients_of_a_pack_agree(model, inputs, expected):
    batch = packed(samples_of(trained(model), inputs, "C"))
    loss = model.loss_sum(batch) / batch.num_supervised
    loss.backward()
    close_loss(loss, expected["C.loss"])
    check_gradients(model, expected, "C")


def test_a_mixed_pack_gives_what_its_samples_give_in_batches_of_their_own(unclustered, inputs, expected):
    others, [asked] = samples_of(unclustered, inputs, "C"), samples_of(unclustered, inputs, "D")
    picture, video, text = others
    with torch.no_grad():
        together = unclustered.loss_sum(packed([picture, asked, video, text]))
    alone = expected["C.loss"] * packed(others).num_supervised + expected["D.loss"] * packed([asked]).num_supervised
    torch.testing.assert_close(together, alone, atol=0, rtol=1e-5)


def test_greedy_answers_agree(model, inputs, expected):
    [(ids, _, media)] = samples_of(model, inputs, "G")
    wanted = expected["G.greedy_new_tokens"][0]
    output = model.generate(
        ids[None],
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        media=media,
        max_new_tokens=len(wanted),
        do_sample=False,
        eos_token_id=None,
    )
    assert output[0, -len(wanted) :].tolist() == wanted.tolist()


@pytest.fixture(scope="module")
def places(config, weights, model, tmp_path_factory) -> dict[str, Path]:
    """What is published, as files: the model, that of stage 2, the run of stage 3, a language model, a projector."""
    root = tmp_path_factory.mktemp("artemis")
    places = {name: root / name for name in ("whole", "stage2", "run", "llm", "clip")}
    tokenizer = load_tokenizer(FOLDER, legacy=True)
    clip = "model.image_tower.vision_tower."
    state = {
        "whole": weights,
        "stage2": {name: tensor for name, tensor in weights.items() if "spi_model" not in name},
        "llm": {name: tensor for name, tensor in weights.items() if not re.search("tower|mm_proj|spi", name)},
        "clip": {name.removeprefix(clip): tensor for name, tensor in weights.items() if name.startswith(clip)},
        "run": {},
    }
    text = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **config["llm"]}
    settings = {
        "whole": FORMATS["official"].write_config(model.config, {}),
        "stage2": FORMATS["official_stage2"].write_config(model.config, {}),
        "run": FORMATS["official_lora"].write_config(model.config, {"clip": str(places["clip"])}),
        "llm": text,
        "clip": {"model_type": "clip_vision_model", **config["clip"]},
    }
    for name, place in places.items():
        place.mkdir()
        (place / "config.json").write_text(json.dumps(settings[name]))
        if state[name]:
            torch.save(state[name], place / "pytorch_model.bin")
        tokenizer.save_pretrained(place)
    connectors = {name: tensor for name, tensor in weights.items() if "mm_projector" in name or "spi_model" in name}
    trained = {f"base_model.model.{name}": tensor for name, tensor in connectors.items()}
    torch.save(trained, places["run"] / "non_lora_trainables.bin")
    torch.save(read("lora_adapter.safetensors"), places["run"] / "adapter_model.bin")
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = {"r": config["lora"]["r"], "lora_alpha": config["lora"]["lora_alpha"], "lora_dropout": 0.05, "bias": "none"}
    adapter = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "", **lora}
    (places["run"] / "adapter_config.json").write_text(json.dumps({**adapter, "target_modules": modules}))
    places["projector"] = root / "mm_projector.bin"
    torch.save({name: tensor for name, tensor in weights.items() if "mm_projector" in name}, places["projector"])
    return places


@pytest.fixture(scope="module")
def merged(places) -> Checkpoint:
    return load_checkpoint(places["run"], base=str(places["stage2"]))


def test_a_run_on_the_second_stage_agrees(merged, unclustered, inputs, expected):
    state = unclustered.state_dict()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    unclustered.load_state_dict(merged.model.state_dict())
    _, output, _, mask, _ = forward(unclustered, inputs, "D")
    unclustered.load_state_dict(kept)
    check_logits(output, mask, expected, "L_lora_merged")


def test_a_track_may_have_any_number_of_boxes_not_below_the_clusters(merged):
    processor = merged.processor.with_preprocessing({"track": {"num_boxes": 16}})
    assert processor.streams["track"].measure(processor.preprocessing["track"].output_shape()).tokens == 4
    for wrong in ({"num_boxes": 3}, {"size": 16}):
        with pytest.raises(UserError, match=r"media\.track: the model takes"):
            merged.processor.with_preprocessing({"track": wrong})


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def held(folder: Path) -> dict:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_a_run_is_written_back_unchanged(merged, places, tmp_path):
    save_checkpoint(merged, tmp_path / "written", "official_lora")
    for file in ("adapter_model.bin", "non_lora_trainables.bin"):
        stored, written = (torch.load(folder / file) for folder in (places["run"], tmp_path / "written"))
        assert same(stored, written)
    again = load_checkpoint(tmp_path / "written", base=str(places["stage2"])).model.state_dict()
    assert same(merged.model.state_dict(), again)


def changed_run(places, folder, **settings) -> Path:
    shutil.copytree(places["run"], folder)
    kept = json.loads((folder / "config.json").read_text())
    region = settings.pop("region", {})
    kept["vidtune_connectors"]["region"] |= region
    (folder / "config.json").write_text(json.dumps({**kept, **settings}))
    return folder


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({"k_means": False, "region": {"clusters": None}}, {"clusters": None}),
        ({"region": {"clusters": 6, "half": True}},) * 2,
    ],
)
def test_a_run_says_how_its_tracks_were_chosen(settings, sizes, places, tmp_path):
    run = changed_run(places, tmp_path / "run", **settings)
    region = load_checkpoint(run, base=str(places["stage2"])).model.config.connectors["region"]
    wanted = sizes.get("region", sizes)
    assert {name: region[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mm_vision_select_layer", -1),
        ("mm_projector_type", "linear"),
        ("rope_theta", 5e5),
        ("tie_word_embeddings", True),
        ("mm_spi_model", False),
        ("use_mm_proj", False),
    ],
)
def test_a_run_that_contradicts_its_base_is_refused(key, value, places, tmp_path):
    run = changed_run(places, tmp_path / "run", **{key: value})
    with pytest.raises(UserError, match=key):
        load_checkpoint(run, base=str(places["stage2"]))


@pytest.mark.parametrize("lost", ["updims", "pconvs.0", "mm_projector"])
@pytest.mark.parametrize("base", ["stage2", "whole"])
def test_a_run_without_all_its_parts_is_refused(base, lost, places, tmp_path):
    run = changed_run(places, tmp_path / "run")
    held = torch.load(run / "non_lora_trainables.bin")
    torch.save({name: tensor for name, tensor in held.items() if lost not in name}, run / "non_lora_trainables.bin")
    with pytest.raises(UserError, match=r"keys missing as official_lora checkpoint"):
        load_checkpoint(run, base=str(places[base]))


@pytest.mark.parametrize("copied", [False, True])
def test_a_run_named_twice_is_refused(copied, places, tmp_path):
    other = changed_run(places, tmp_path / "run") if copied else places["run"]
    with pytest.raises(UserError, match="its adapter is that of" if copied else "is named twice"):
        load_checkpoint(places["run"], base=[str(places["stage2"]), str(other)])


@pytest.mark.parametrize("lost", ["fuse_convs.4", "level 3"])
def test_a_model_without_its_last_layers_is_refused(lost, places, weights, tmp_path):
    parts = (r"pconvs\.3", r"input_conv\.3") if lost == "level 3" else (re.escape(lost),)
    shutil.copytree(places["whole"], tmp_path / "whole")
    config = json.loads((tmp_path / "whole/config.json").read_text())
    del config["vidtune_connectors"]
    (tmp_path / "whole/config.json").write_text(json.dumps(config))
    left = {name: tensor for name, tensor in weights.items() if not re.search("|".join(parts), name)}
    torch.save(left, tmp_path / "whole/pytorch_model.bin")
    with pytest.raises(UserError, match="keys missing as official checkpoint"):
        load_checkpoint(tmp_path / "whole")


@pytest.mark.parametrize("name", ["official", "official_stage2"])
def test_a_whole_model_is_read_and_written_back(name, places, weights, tmp_path):
    found = load_checkpoint(places["whole" if name == "official" else "stage2"])
    assert found.report.format == name
    drawn = [key for key in found.model.state_dict() if key.startswith("connectors.region.")]
    assert sorted(found.report.drawn) == (sorted(drawn) if name == "official_stage2" else [])
    save_checkpoint(found, tmp_path / "written", name)
    kept = {key: tensor for key, tensor in weights.items() if not FORMATS[name].keys.is_ignored(key)}
    if name == "official_stage2":
        kept = {key: tensor for key, tensor in kept.items() if "spi_model" not in key}
    assert same(held(tmp_path / "written"), kept)


def test_a_projector_and_a_published_tower_complete_a_language_model(places, weights):
    found = load_checkpoint(
        places["projector"], base=str(places["llm"]), system="artemis", towers={"clip": str(places["clip"])}
    )
    exported = export_state(found.model, FORMATS["official_stage2"])
    kept = {key: tensor for key, tensor in weights.items() if "spi_model" not in key and "inv_freq" not in key}
    assert same(exported, kept)


def test_a_projector_is_told_from_others_by_the_config_beside_it(places, tmp_path):
    shutil.copy(places["projector"], tmp_path)
    shutil.copy(places["stage2"] / "config.json", tmp_path)
    found = recognise(tmp_path)
    assert (found.system, found.kind) == ("artemis", "connectors")


def test_a_full_size_model_has_the_published_keys_and_shapes():
    published = {key: tuple(shape) for key, shape in read("full_keys.json").items()}
    text = AutoConfig.for_model(
        "llama",
        vocab_size=published["model.embed_tokens.weight"][0],
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
    )
    config = SYSTEM.architecture.build_config(text, {}, {})
    assert config.taps("box") == config.taps("track") == (14, 17, 20, 23)
    with torch.device("meta"):
        state = VideoLM(config).state_dict()
    keys = FORMATS["official"].keys
    ours = {keys.to_theirs(key): tuple(value.shape) for key, value in state.items()}
    assert ours == {key: shape for key, shape in published.items() if not keys.is_ignored(key)}


PROMPTS = {name: prompt.with_eos("</s>") for name, prompt in SYSTEM.dialect.prompts.items()}
TEXTS = {case["name"]: case for case in read("prompts.json")["cases"]} if FOLDER.is_dir() else {}
STREAMS = {"box": REGION, "image": IMAGE, "track": REGION, "video": IMAGE}


@pytest.fixture(scope="module")
def tokenizer() -> ChunkTokenizer:
    return ChunkTokenizer(load_tokenizer(FOLDER, legacy=True))


def ours(text: str) -> str:
    """An official text with the tags of our streams: the first box is asked about, the others are a track."""
    before, tag, after = text.partition("<bbox>")
    return before + tag.replace("<bbox>", "<box>") + re.sub("(<bbox>)+", "<track>", after)


def encoded(turns: list[Turn], prompt: str, tokenizer: ChunkTokenizer, tracked: int, **options):
    tags = [part.split(">")[0] for part in "".join(turn.text for turn in turns).split("<")[1:]]
    tokens = dict.fromkeys(STREAMS, 1) | {"track": tracked}
    media = [Placeholder(tag, ((STREAMS[tag] + 1000, tokens[tag]),), tokens[tag]) for tag in tags if tag in STREAMS]
    found = encode(turns, PROMPTS[prompt], tokenizer, media, streams=tuple(STREAMS), **options)
    return np.where(found.input_ids >= 500, found.input_ids - 1000, found.input_ids).tolist(), found.labels.tolist()


@pytest.mark.parametrize("name", [name for name, case in TEXTS.items() if case["kind"] == "train_v1"])
def test_training_tokens_and_labels_equal_the_official_ones(name, tokenizer):
    case = TEXTS[name]
    roles = {"human": "user", "gpt": "assistant"}
    turns = [Turn(roles[turn["from"]], ours(turn["value"])) for turn in case["conversations"]]
    tracked = sum(turn["value"].count("<bbox>") for turn in case["conversations"]) - 1
    ids, labels = encoded(turns, "v1", tokenizer, tracked)
    assert ids == case["input_ids"] and labels == case["labels"]


@pytest.mark.parametrize("name", [name for name, case in TEXTS.items() if case["kind"] == "infer_llava_v1"])
def test_question_tokens_equal_the_official_ones(name, tokenizer):
    case = TEXTS[name]
    question = case["prompt"].partition("USER: ")[2].removesuffix(" ASSISTANT:").replace("<image>", "<video>")
    tracked = question.count("<bbox>") - 1
    note = PROMPTS["llava_v1"].placements[0].texts[0].format(question="", tag="<bbox>" * max(tracked, 1))
    media, asked = ["video"], ours(question.removesuffix(note))
    if question.endswith(note):
        media += ["box", "track"]
    turns = placed([Turn("user", asked)], media, PROMPTS["llava_v1"], tuple(STREAMS), "0")
    found, _ = encoded(turns, "llava_v1", tokenizer, tracked, supervise=False, open_answer=True)
    assert found == case["input_ids"]


def test_a_sample_without_a_question_gets_one_of_the_official_ones_and_a_note():
    turn, media = [Turn("user", "<video>\n")], ["video", "box", "track"]
    texts = {placed(turn, media, PROMPTS["v1"], tuple(STREAMS), str(number))[0].text for number in range(900)}
    questions = {text.partition(" region's")[0] for text in texts}
    assert len(PROMPTS["v1"].questions) == 24 and len(questions) == 23 * 3
    question = "How would you characterize the <box>in this video?"
    assert f"<video>\n{question} This is the region's video tracking list:<track>." in texts
