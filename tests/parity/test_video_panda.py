"""Our Video-Panda against tensors, tokens and frames of the official code; every size is read from the fixture."""

import json
import os
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from vidtune.checkpoints.assembly.fill import model_from_state
from vidtune.checkpoints.load import load_checkpoint
from vidtune.checkpoints.report import LoadReport, rename
from vidtune.checkpoints.write import export_state
from vidtune.data.sample import Turn
from vidtune.media.preprocessing.frame_sampling import frame_indices
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.media.preprocessing.resize_keeping_aspect import AnyPixelImagePreprocessing, AnyPixelVideoPreprocessing
from vidtune.models.distillation import Teacher, aligned_loss, every_fourth_layer
from vidtune.models.letterbox import letterbox
from vidtune.models.towers.base import tower_config
from vidtune.models.towers.token_grid import TokenGrid
from vidtune.models.video_lm import VideoLM
from vidtune.planning.order import modality_grouped_order
from vidtune.processing.batch import Batch, Item, Teaching
from vidtune.processing.tokenizer import ChunkTokenizer, load_tokenizer
from vidtune.processing.tokenizing import Placeholder, encode
from vidtune.recipe.files import load_recipe
from vidtune.registry import BENCHMARKS, SYSTEMS
from vidtune.training.setup.parameters import parameter_groups
from vidtune.training.setup.starting_model import trained_components

FOLDER = Path(os.environ.get("VIDTUNE_PARITY", Path(__file__).parent / "fixtures")) / "video_panda"
SYSTEM = SYSTEMS["video_panda"]
FORMATS = {format.name: format for format in SYSTEM.publication.formats}
KEYS = FORMATS["official"].keys
ATOL = 1e-4

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no video_panda fixtures in this folder")


def read(name: str):
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"{name} is not part of this fixture")
    return json.loads(path.read_text()) if path.suffix == ".json" else load_file(path)


def close(actual: torch.Tensor, wanted: torch.Tensor, atol: float = ATOL) -> None:
    torch.testing.assert_close(actual.float(), wanted.float(), atol=atol, rtol=1e-4)


def tower_sizes(config: dict, dropout: float) -> dict:
    stab, pixels = config["stab"], config["preprocessor"]
    return {
        "hidden_size": stab["video_hidden_size"],
        "image_size": pixels["image_size"],
        "patch_size": pixels["patch_stride"],
        "cell_size": pixels["conv_stride"],
        "num_frames": config["num_frames"],
        "chunk_frames": config["chunk_size"],
        "clip_heads": stab["gstra_heads"],
        "frame_heads": stab["local_global_heads"],
        "mlp_ratio": stab["mlp_factor"],
        "reduction": stab["dw_reduction"],
        "dropout": dropout,
    }


def load_model(config: dict, dropout: float) -> VideoLM:
    ours = SYSTEM.architecture.build_config(
        AutoConfig.for_model("llama", **config["llm"]), {"video": tower_sizes(config, dropout)}, {}
    )
    assert tuple(config["compressor"]["layer_idx"]) == every_fourth_layer(config["llm"]["num_hidden_layers"])
    ours.alignments = {
        "video": {
            "input_size": config["llm"]["hidden_size"],
            "output_size": config["teacher_hidden_size"],
            "layers": config["compressor"]["layer_idx"],
            "num_heads": config["compressor"]["num_heads"],
        }
    }
    report = LoadReport("official")
    model = model_from_state(ours, rename(read("weights.safetensors"), KEYS, report), report)
    report.refuse_gaps(FOLDER)
    return model


@pytest.fixture(scope="module")
def config() -> dict:
    return read("config.json")


@pytest.fixture(scope="module")
def inputs() -> dict:
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in read("inputs.safetensors").items()
    }


@pytest.fixture(scope="module")
def expected() -> dict:
    return read("expected.safetensors")


@pytest.fixture(scope="module")
def model(config) -> VideoLM:
    return load_model(config, config["stab"]["mlp_dropout"]).eval()


@pytest.fixture(scope="module")
def teacher(config) -> Teacher:
    spec = dict(config["teacher_vision_config"])
    sizes = {
        **SYSTEM.publication.teachers["video"].read_sizes(spec, {}),
        "feature_layer": config["teacher_select_layer"],
    }
    color = SYSTEM.architecture.build_config(AutoConfig.for_model("llama"), {}, {}).towers["video"]["padding_color"]
    cell = config["preprocessor"]["patch_stride_teacher"]
    loaded = Teacher(tower_config({"type": "clip", **sizes}), cell=cell, color=color)
    prefix = "model.video_teacher.video_tower."
    weights = {name: value for name, value in read("weights.safetensors").items() if name.startswith(prefix)}
    loaded.tower.load_state_dict({name.removeprefix(prefix): value for name, value in weights.items()})
    return loaded


def on_square(frames: torch.Tensor) -> torch.Tensor:
    """A clip as the fixture has it, channels first: (T, 4, S, S) -> (4, T, S, S)."""
    return frames.transpose(0, 1)


def picture(frames: torch.Tensor) -> torch.Tensor:
    """The same clip as our preprocessing gives it: no padding, no missing frames. -> (3, frames, h, w)"""
    mask = frames[:, 3]
    real = mask.flatten(1).any(dim=1)
    rows, columns = (mask[real][0].any(dim=dim).nonzero().flatten() for dim in (1, 0))
    return on_square(frames)[:3, real, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def expand(model: VideoLM, config: dict, ids: torch.Tensor, shapes, stream: str, *rows: torch.Tensor):
    """Official ids (one placeholder per frame or image) -> ours (one per media token); ``rows`` are expanded alike."""
    per_item = config["num_frames"] if stream == "video" else 1
    places = (ids == config["image_token_index"]).nonzero().flatten().split(per_item)
    counts = torch.ones_like(ids)
    for place, shape in zip(places, shapes, strict=True):
        counts[place] = 0
        counts[place[0]] = model.config.num_tokens(stream, tuple(shape))
    ours = torch.where(ids == config["image_token_index"], model.config.placeholder_ids[stream], ids)
    return tuple(row.repeat_interleave(counts) for row in (ours, *rows))


def make_batch(model, config, inputs, name: str, clips: list[torch.Tensor], values=None, teacher=None) -> Batch:
    """The videos of a fixture as one pack; padding of the official batch is left out."""
    ids, labels = inputs[f"{name}.input_ids"], inputs[f"{name}.labels"]
    masks = inputs.get(f"{name}.attention_mask", torch.ones_like(ids)).bool()
    shapes = [tuple(picture(clip).shape) for clip in (inputs[f"{name}.frames"].view(len(ids), -1, *clips[0].shape[1:]))]
    rows = [
        expand(model, config, ids[row][masks[row]], [shapes[row]], "video", labels[row][masks[row]])
        for row in range(len(ids))
    ]
    lengths = [model.config.num_tokens("video", shape) for shape in shapes]
    bounds = np.cumsum([0, *(len(row[0]) for row in rows)]).tolist()
    all_labels = [torch.cat([torch.tensor([config["ignore_index"]]), row[1][1:]]) for row in rows]
    values = values or [on_square(clip) for clip in clips]
    teachers = [None] * len(values) if teacher is None else [Teaching(features, done=True) for features in teacher]
    items = [Item(*parts[:2], teacher=parts[2]) for parts in zip(values, lengths, teachers, strict=True)]
    return Batch(
        input_ids=torch.cat([row[0] for row in rows])[None],
        position_ids=torch.cat([torch.arange(len(row[0])) for row in rows])[None],
        labels=torch.cat(all_labels)[None],
        cu_seqlens=bounds,
        ids=[str(row) for row in range(len(rows))],
        media={"video": items},
    )


def one_video(model, config, inputs, **extra) -> Batch:
    return make_batch(model, config, inputs, "one_video", [inputs["one_video.frames"]], **extra)


def two_videos(model, config, inputs, **extra) -> Batch:
    return make_batch(model, config, inputs, "two_videos", list(inputs["two_videos.frames"]), **extra)


def pictures(inputs, name: str) -> list[torch.Tensor]:
    return [picture(clip) for clip in inputs[name]]


def losses(model: VideoLM, batch: Batch):
    """Mean cross-entropy and mean alignment loss of a pack, with their parts."""
    output = model.language_model(
        inputs_embeds=model.embed(batch.input_ids, batch.media),
        position_ids=batch.position_ids,
        cu_seqlens=batch.cu_seqlens,
        use_cache=False,
        output_hidden_states=True,
    )
    targets = batch.labels[0, 1:]
    text = torch.nn.functional.cross_entropy(output.logits[0, :-1], targets)
    total, count = model.alignment(output.hidden_states, batch)["video"]
    return output, text, total / max(1, count), count


# --- the alignment block alone


@pytest.fixture(scope="module")
def stab(model, config, inputs):
    """The block on the fixture's four-frame chunks, step by step."""
    tower = model.towers["video"]
    chunks = inputs["stab_small.pixel_values"]
    clip = on_square(chunks.flatten(0, 1))
    with torch.no_grad():
        frames, areas = tower._on_square(clip)
        patches = tower.patch_embedding(frames.transpose(0, 1))
        stacked = patches.unflatten(0, (len(chunks), -1)).transpose(1, 2)
        temporal = tower.local_encoding.temporal(stacked)
        mixed, chunk_tokens = tower.mix_frames(patches, 1)
        runs = [(area, 1) for area in areas]
        cells = tower.cells(mixed, runs)
        local = tower.downsampling(cells.mean(dim=1), cells)
        grids = tower.grids(local, runs)
        summaries = torch.cat([tower.summarize(grid.flatten(1, 2)) for grid in grids])
        context = tower.fusion(chunk_tokens, summaries)
        out = list(tower.assemble(context, grids))
    return {
        "patch_embedding": patches,
        "lmhra1": temporal,
        "dpe": tower.local_encoding.position(stacked + temporal).detach(),
        "dec": chunk_tokens[:: config["chunk_size"]][None],
        **{f"local_attention.frame{k}": grid.flatten(1, 2) for k, grid in enumerate(grids)},
        **{f"global_attention.frame{k}": summary[None, None] for k, summary in enumerate(summaries)},
        **{f"proj.frame{k}": token[None] for k, token in enumerate(context)},
        **{f"out.frame{k}": tokens for k, tokens in enumerate(out)},
        **{f"hw.frame{k}": torch.tensor(grid.shape[1:3]) for k, grid in enumerate(grids)},
        **{f"projected.frame{k}": model.connectors["visual"](tokens).detach() for k, tokens in enumerate(out)},
    }


def test_every_step_of_the_block_agrees(stab, expected):
    prefix = "stab_small.eval."
    wanted = {name.removeprefix(prefix): value for name, value in expected.items() if name.startswith(prefix)}
    assert set(stab) == set(wanted)
    for name, value in wanted.items():
        close(stab[name], value)


def test_the_block_in_training_agrees_and_updates_its_statistics(config, inputs, expected):
    tower = load_model(config, 0.0).towers["video"].train()
    (tokens,) = tower([on_square(inputs["stab_small.pixel_values"].flatten(0, 1))])
    wanted = {name: value for name, value in expected.items() if name.startswith("stab_small.train_nodropout.")}
    frames = [wanted[f"stab_small.train_nodropout.out.frame{k}"] for k in range(config["num_frames"])]
    close(tokens.detach(), torch.cat(frames))
    assert_statistics(tower, expected, "stab_small.train_nodropout")


def assert_statistics(tower, expected, prefix: str) -> None:
    norm = tower.local_encoding.norm
    for name, value in {**dict(norm.named_parameters()), **dict(norm.named_buffers())}.items():
        close(value, expected[f"{prefix}.bn_after.{name}"], 1e-5)


def test_single_pictures_agree(model, inputs, expected):
    pixels = inputs["stab_image.pixel_values"]
    with torch.no_grad():
        blocks = model.encode("image", [item[0] for item in pixels])
    for k, block in enumerate(blocks):
        close(block, expected[f"stab_image.eval.projected.frame{k}"])


# --- one and two videos in the language model


@pytest.mark.parametrize("form", ["square", "picture"])
@pytest.mark.parametrize("name", ["one_video", "two_videos"])
def test_embeddings_with_placeholders_equal_the_spliced_ones(name, form, model, config, inputs, expected):
    batch = {"one_video": one_video, "two_videos": two_videos}[name](model, config, inputs)
    if form == "picture":
        clips = inputs[f"{name}.frames"].view(-1, config["num_frames"], *inputs[f"{name}.frames"].shape[-3:])
        pictures_of = zip(clips, batch.media["video"], strict=True)
        batch.media["video"] = [Item(picture(clip), item.num_tokens) for clip, item in pictures_of]
    with torch.no_grad():
        embeds = model.embed(batch.input_ids, batch.media)
    mask = expected[f"{name}.eval.attention_mask"].bool()
    close(embeds[0], expected[f"{name}.eval.inputs_embeds"][mask])
    labels, wanted = batch.labels[0], expected[f"{name}.eval.labels_spliced"][mask]
    assert torch.equal(labels, wanted)
    positions = expected[f"{name}.eval.position_ids"].expand(len(mask), -1)[mask]
    assert torch.equal(batch.position_ids[0], positions)


@pytest.mark.parametrize("name", ["one_video", "two_videos"])
def test_tokens_per_frame_are_known_before_decoding(name, model, config, inputs, expected):
    clips = inputs[f"{name}.frames"].view(-1, config["num_frames"], *inputs[f"{name}.frames"].shape[-3:])
    tower = model.config.tower("video")
    for clip, lengths, sizes in zip(
        clips, expected[f"{name}.eval.feature_lens"], expected[f"{name}.eval.patch_hw"], strict=True
    ):
        shape = tuple(picture(clip).shape)
        assert tower.num_tokens(shape) == int(lengths.sum())
        grids = tower.token_grids(shape)
        assert [[grid.height, grid.width] for grid in grids] == sizes[: len(grids)].tolist()
        starts = np.cumsum([0, *lengths.tolist()])[: len(grids)]
        assert [grid.first for grid in grids] == (starts + 1).tolist()


@pytest.mark.parametrize("name", ["one_video", "two_videos"])
def test_packed_logits_and_loss_agree(name, model, config, inputs, expected):
    batch = {"one_video": one_video, "two_videos": two_videos}[name](model, config, inputs)
    with torch.no_grad():
        output, loss, _, _ = losses(model, batch)
        summed = model.loss_sum(batch)
    mask = expected[f"{name}.eval.attention_mask"].bool()
    close(output.logits[0], expected[f"{name}.eval.logits"][mask])
    close(loss, expected[f"{name}.eval.loss"], 2e-5)
    close(summed / batch.num_supervised, expected[f"{name}.eval.loss"], 2e-5)
    if name == "one_video":
        ends = output.hidden_states[-1][:, [0, 1, 2, -3, -2, -1]]
        close(ends, expected["one_video.eval.last_hidden_state_first3_last3"])


def test_an_image_in_the_model_agrees(model, config, inputs, expected):
    pixels = inputs["one_image.image"][0]
    shape = tuple(picture(pixels[None])[:, 0].shape)
    ids, labels = expand(
        model, config, inputs["one_image.input_ids"][0], [shape], "image", inputs["one_image.labels"][0]
    )
    media = {"image": [Item(pixels, model.config.num_tokens("image", shape))]}
    with torch.no_grad():
        close(model.embed(ids[None], media), expected["one_image.eval.inputs_embeds"])
        close(model(ids[None], labels=labels[None], media=media).loss, expected["one_image.eval.loss"], 2e-5)


def test_greedy_generation_agrees(model, config, inputs, expected):
    shape = tuple(picture(inputs["one_video.frames"]).shape)
    prompt = inputs["generate.input_ids"][0]
    (ids,) = expand(model, config, prompt, [shape], "video")
    new = expected["generate.output_ids"].shape[1] - len(prompt)
    output = model.generate(
        ids[None],
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        media={"video": [Item(on_square(inputs["one_video.frames"]), model.config.num_tokens("video", shape))]},
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=None,
    )
    assert output[0, -new:].tolist() == expected["generate.output_ids"][0, -new:].tolist()


# --- distillation


def test_the_teacher_agrees(teacher, inputs, expected):
    frames = inputs["two_videos.frames_teacher"][0]
    with torch.no_grad():
        layer = teacher.config.feature_layer
        wanted = expected["teacher.landscape.features_with_cls_frames_0_5"]
        close(list(teacher.tower.hidden_states(frames[:, :3]))[layer][[0, 5]], wanted)
    (features,) = teacher([picture(frames)])
    close(features[[0, 5]], wanted[:, 1:])


def test_the_alignment_loss_alone_agrees(model, config, inputs, expected):
    head, name = model.alignments["video"], "align.mixed."
    states = [layer.requires_grad_(True) for layer in inputs[name + "hidden_states"].unbind(dim=2)]
    packed = [state.flatten(0, 1)[None] for state in states]
    places, grids, features = [], [], []
    patch = config["preprocessor"]["patch_stride_teacher"]
    for video, ids in enumerate(inputs[name + "input_ids"]):
        lengths, sizes = inputs[name + "feature_lens"][video], inputs[name + "patch_hw"][video]
        first = int((ids == config["image_token_index"]).nonzero()[0])
        places.append(video * states[0].shape[1] + first + torch.arange(int(lengths.sum())))
        starts = np.cumsum([0, *lengths.tolist()]).tolist()
        grids.append([])
        for frame, (height, width) in enumerate(sizes.tolist()):
            mask = inputs[name + "teacher_mask"][video, frame, 0, ::patch, ::patch]
            if mask.any():
                top, left = mask.nonzero()[0].tolist()
                grids[-1].append(TokenGrid(starts[frame] + 1, width + 1, height, width, top, left, len(mask)))
        features.append(inputs[name + "teacher_features_with_cls"][video].flatten(0, 1)[:, 1:])

    total, count = aligned_loss(head, packed, places, grids, features)
    per_frame = [
        aligned_loss(head, packed, [place], [[grid]], [frame[None]])[0]
        for place, frames, item in zip(places, grids, features, strict=True)
        for grid, frame in zip(frames, item, strict=False)
    ]
    wanted = expected[name + "per_frame_loss"]
    padded = len(wanted) - len(per_frame)
    close(torch.stack(per_frame).detach(), wanted[: len(per_frame)], 2e-5)
    close(torch.zeros(padded), wanted[len(per_frame) :], 2e-5)
    close((total / count).detach(), expected[name + "loss"], 2e-5)
    for key, video, frame in (("video0_frame3", 0, 3), ("video1_frame2", 1, 2)):
        index = places[video][grids[video][frame].tokens()]
        chosen = torch.stack([packed[layer][0, index] for layer in head.config.layers])
        close(head(chosen).detach(), expected[f"{name}fused_student_feature.{key}"])
    (total / count).backward()
    norms = torch.stack([torch.zeros(()) if state.grad is None else state.grad.norm() for state in states])
    torch.testing.assert_close(norms, expected[name + "grad_hidden_states_norm_per_layer"], atol=1e-6, rtol=1e-3)
    model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("mode", ["distill_evalmode", "train_nodropout"])
def test_both_losses_and_their_gradients_agree(mode, teacher, config, inputs, expected):
    model = load_model(config, 0.0).train(mode == "train_nodropout").requires_grad_(True)
    features = teacher(pictures(inputs, "two_videos.frames_teacher"))
    values = pictures(inputs, "two_videos.frames")
    batch = two_videos(model, config, inputs, values=values, teacher=features)
    _, text, alignment, count = losses(model, batch)
    assert count == sum(value.shape[1] for value in values)
    close(text.detach(), expected[f"two_videos.{mode}.loss_llm"], 2e-5)
    close(alignment.detach(), expected[f"two_videos.{mode}.loss_video"], 2e-5)
    with torch.no_grad():
        summed, terms = load_model(config, 0.0).train(mode == "train_nodropout").loss_terms(batch)
    close(summed / batch.num_supervised, text.detach(), 1e-5)
    close(terms["video"][0] / terms["video"][1], alignment.detach(), 1e-5)
    total = text + alignment
    close(total.detach(), expected[f"two_videos.{mode}.loss_total"], 2e-5)
    total.backward()
    gradients = {KEYS.to_theirs(name): p.grad for name, p in model.named_parameters() if p.grad is not None}
    for prefix, wanted in config["measured"][f"two_videos.{mode}.grad_norm"].items():
        parts = [g.flatten() for key, g in gradients.items() if key == prefix or key.startswith(prefix + ".")]
        norm = float(torch.cat(parts).norm()) if parts else 0.0
        assert norm == pytest.approx(wanted, rel=1e-3, abs=1e-7), prefix
    if mode == "train_nodropout":
        assert_statistics(model.towers["video"], expected, f"two_videos.{mode}")


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_packed_equals_one_by_one_with_the_alignment_loss(mode, teacher, config, inputs):
    packed_model, single = (load_model(config, 0.0).train(mode == "train") for _ in range(2))
    features = teacher(pictures(inputs, "two_videos.frames_teacher"))
    values = pictures(inputs, "two_videos.frames")
    batch = two_videos(packed_model, config, inputs, values=values, teacher=features)
    _, text, alignment, count = losses(packed_model, batch)
    supervised = batch.num_supervised
    (text * supervised + alignment * count).backward()
    text, alignment = text.detach(), alignment.detach()
    sums, counts = 0.0, 0
    for k, (first, last) in enumerate(zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False)):
        alone = Batch(
            input_ids=batch.input_ids[:, first:last],
            position_ids=batch.position_ids[:, first:last],
            labels=batch.labels[:, first:last],
            cu_seqlens=[0, last - first],
            ids=[str(k)],
            media={"video": [batch.media["video"][k]]},
        )
        _, text_alone, alignment_alone, frames = losses(single, alone)
        (text_alone * alone.num_supervised + alignment_alone * frames).backward()
        sums, counts = sums + float(alignment_alone.detach()) * frames, counts + frames
    assert counts == count
    assert sums / counts == pytest.approx(float(alignment), abs=1e-5)
    for (name, one), other in zip(packed_model.named_parameters(), single.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-3, msg=name)
    for one, other in zip(packed_model.buffers(), single.buffers(), strict=True):
        torch.testing.assert_close(one, other)


# --- checkpoints


def test_official_keys_survive_a_round_trip(model):
    weights = read("weights.safetensors")
    exported = export_state(model, FORMATS["official"])
    kept = {name for name in weights if not KEYS.is_ignored(name)}
    assert set(exported) == kept
    assert all(torch.equal(exported[name], weights[name]) for name in kept)


def save_official(folder: Path, model: VideoLM, weights: dict[str, torch.Tensor]) -> Path:
    import shutil

    folder.mkdir()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(FORMATS["official"].write_config(model.config)))
    for file in (FOLDER / "tokenizer").iterdir():
        shutil.copy(file, folder)
    return folder


@pytest.mark.parametrize("aliases", ["absent", "beside", "alone"])
def test_a_released_folder_loads_without_its_teacher(aliases, model, config, tmp_path):
    weights = read("weights.safetensors")
    for alias, name in config["aliases_not_stored"].items():
        renamed = {alias + key.removeprefix(name): value for key, value in weights.items() if key.startswith(name)}
        if aliases != "absent":
            weights = weights | renamed
        if aliases == "alone" and "teacher" not in alias:
            weights = {key: value for key, value in weights.items() if not key.startswith(name)}
    loaded = load_checkpoint(save_official(tmp_path / "released", model, weights))
    assert loaded.report.format == "official"
    assert loaded.report.left_out["the teacher"] >= 1
    assert not loaded.report.missing and not loaded.report.unexpected
    assert loaded.model.config.alignment("video") == model.config.alignment("video")
    for (name, one), other in zip(loaded.model.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_an_alias_that_disagrees_is_refused(model, tmp_path):
    weights = read("weights.safetensors")
    weights["model.vision_tower.balance"] = weights["model.video_tower.balance"] + 1
    with pytest.raises(Exception, match="one weight but hold different values"):
        load_checkpoint(save_official(tmp_path / "released", model, weights))


def test_a_start_from_eve_draws_what_mixes_frames(model, tmp_path):
    eve = {FORMATS["eve"].keys.to_theirs(name): value for name, value in model.state_dict().items()}
    fresh = ("lmhra1", "dpe", "dec.", "temporal_cls_token", "balance", "tower.proj.")
    weights = {name: value for name, value in eve.items() if not any(part in name for part in fresh)}
    weights["model.vision_clip.vision_tower.embeddings.class_embedding"] = torch.zeros(3)
    loaded = load_checkpoint(save_official(tmp_path / "eve", model, weights))
    assert loaded.report.format == "eve" and not loaded.report.missing
    assert loaded.report.left_out == {"EVE's teacher": 1}
    tower, wanted = loaded.model.towers["video"], model.towers["video"]
    assert torch.equal(tower.frame_query, wanted.frame_query) and torch.equal(tower.row_end, wanted.row_end)
    assert torch.equal(loaded.model.alignments["video"].input_proj.weight, model.alignments["video"].input_proj.weight)
    for zero in (tower.clip_aggregator.query, tower.fusion.balance, tower.local_encoding.expand.weight):
        assert not zero.any()
    assert float(tower.clip_aggregator.out_proj.weight.detach().std()) == pytest.approx(0.02, rel=0.2)
    assert set(loaded.report.drawn) == {
        name for name in model.state_dict() if any(part in FORMATS["eve"].keys.to_theirs(name) for part in fresh)
    }


def full_size_model() -> VideoLM:
    published = read("full_keys.json")
    vocabulary, width = published["model.embed_tokens.weight"]
    layers = {key.split(".")[2] for key in published if key.startswith("model.layers.")}
    inner = published["model.layers.0.mlp.gate_proj.weight"][0]
    text = AutoConfig.for_model(
        "llama",
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=len(layers),
        num_attention_heads=width // 128,
    )
    config = SYSTEM.architecture.build_config(text, {}, {})
    teacher = published["model.video_tower_compressor.input_layer.weight"][0]
    layers = every_fourth_layer(len(layers))
    config.alignments = {"video": {"input_size": width, "output_size": teacher, "layers": layers}}
    with torch.device("meta"):
        return VideoLM(config)


def test_full_size_model_has_the_published_keys_and_shapes(config):
    published = {key: tuple(shape) for key, shape in read("full_keys.json").items() if not KEYS.is_ignored(key)}
    aliases = tuple(config["aliases_not_stored"])
    assert all(KEYS.to_theirs(KEYS.to_ours(key)) == key for key in published if not key.startswith(aliases))
    for key in [key for key in published if key.startswith(aliases)]:
        assert published.pop(key) == published[KEYS.to_theirs(KEYS.to_ours(key))]
    ours = {KEYS.to_theirs(key): tuple(value.shape) for key, value in full_size_model().state_dict().items()}
    assert ours == published


@pytest.mark.parametrize("stage", ["prealign", "pretrain", "finetune"])
def test_the_recipe_trains_what_the_official_stages_train_at_their_rates(stage):
    wanted = {}
    for group in read("param_groups.json")[stage]["groups"]:
        wanted |= dict.fromkeys((name for name in group["names"] if not KEYS.is_ignored(name)), group["lr"])
    recipe = load_recipe("video_panda", expand=False)
    chosen = next(entry for entry in recipe.stages if entry.name == stage)
    model = full_size_model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, trained_components(chosen, model), chosen.weight_decay)
    ours = {_without_number(KEYS.to_theirs(names[id(p)])): group["peak"] for group in groups for p in group["params"]}
    assert ours == wanted
    assert {group["weight_decay"] for group in groups} == {0.0}


def _without_number(name: str) -> str:
    parts = name.split(".")
    return ".".join(["*" if part.isdigit() and parts[i - 1] == "layers" else part for i, part in enumerate(parts)])


# --- pixels, frames, text, order


# Pillow before 13 rounds bicubic resizing differently: by up to two grey levels, which are then divided by 0.26.
PILLOW_AS_RECORDED = int(PIL.__version__.split(".")[0]) >= 13
TWO_GREY_LEVELS = 2.1 / 255 / 0.26


@pytest.mark.parametrize("name", ["square", "landscape", "portrait"])
def test_pictures_on_their_square_equal_the_official_ones(name, config, inputs, expected):
    sizes = config["preprocessor"]
    cell = sizes["patch_stride"] * sizes["conv_stride"]
    preprocessing = AnyPixelVideoPreprocessing(size=sizes["image_size"], cell=cell)
    clip = preprocessing.apply(inputs[f"preprocess.{name}.raw_uint8_THWC"].numpy())
    color = torch.tensor(
        SYSTEM.architecture.build_config(AutoConfig.for_model("llama"), {}, {}).towers["video"]["padding_color"]
    )
    square = letterbox(clip, sizes["image_size"], cell, 1, color)[:, 0]
    wanted = expected[f"preprocess.{name}.frame0"]
    close(square, wanted[:3], 1e-5 if PILLOW_AS_RECORDED else TWO_GREY_LEVELS)
    assert wanted[3].sum() == clip[0, 0].numel()
    still = AnyPixelImagePreprocessing(size=sizes["image_size"], cell=cell)
    assert torch.equal(still.apply(inputs[f"preprocess.{name}.raw_uint8_THWC"][0].numpy()), clip[:, 0])


SAMPLING = json.loads((FOLDER / "sampling.json").read_text()) if (FOLDER / "sampling.json").is_file() else {}


@pytest.mark.parametrize("case", SAMPLING.get("cases", ()), ids=lambda case: f"{case['fps']}-{case['num_frames']}")
def test_frame_indices_equal_the_official_ones(case):
    indices = frame_indices("per_second", case["num_frames"], SAMPLING["num_frames_target"], case["fps"])
    assert indices == case["indices"]


@pytest.mark.parametrize("case", SAMPLING.get("cases_where_the_original_raises", ()), ids=lambda case: case["error"])
def test_clips_that_crash_the_original_give_frames(case):
    indices = frame_indices("per_second", case["num_frames"], SAMPLING["num_frames_target"], case["fps"])
    assert indices == sorted(set(indices)) and indices[0] >= 0 and indices[-1] < case["num_frames"]
    assert len(indices) == min(case["num_frames"], SAMPLING["num_frames_target"])


TEXT = json.loads((FOLDER / "text.json").read_text()) if (FOLDER / "text.json").is_file() else {}
MEDIA_ID = 10_000


def encoded(conversation: list[dict], prompt: str, config: dict, **options):
    turns = [Turn("user" if turn["from"] == "human" else "assistant", turn["value"]) for turn in conversation]
    text = "".join(turn.text for turn in turns)
    frames = {"image": 1, "video": config["num_frames"]}
    placeholders = [
        Placeholder(tag, ((MEDIA_ID, number),), number) for tag, number in frames.items() if f"<{tag}>" in text
    ]
    tokenizer = ChunkTokenizer(load_tokenizer(FOLDER / "tokenizer"))
    return encode(turns, SYSTEM.dialect.prompts[prompt], tokenizer, placeholders, streams=("image", "video"), **options)


@pytest.mark.parametrize("name", [name for name in TEXT if name != "eval_prompt"])
def test_training_tokens_and_labels_equal_the_official_ones(name, config):
    result = encoded(TEXT[name]["conversations"], SYSTEM.dialect.training_prompt, config)
    ids = np.where(result.input_ids == MEDIA_ID, config["image_token_index"], result.input_ids)
    assert ids.tolist() == TEXT[name]["input_ids"]
    assert result.labels.tolist() == TEXT[name]["labels"]


def test_the_question_prompt_equals_the_official_one(config):
    case, prompt = TEXT["eval_prompt"], SYSTEM.dialect.prompts[SYSTEM.dialect.answering_prompt]
    conversation = [{"from": "human", "value": prompt.with_tags(case["question"], ["video"])}]
    result = encoded(conversation, SYSTEM.dialect.answering_prompt, config, supervise=False, open_answer=True)
    ids = np.where(result.input_ids == MEDIA_ID, config["image_token_index"], result.input_ids)
    assert ids.tolist() == case["input_ids"]
    rendered = "".join(p.text for p in prompt.render([Turn("user", conversation[0]["value"])], open_answer=True))
    assert rendered.replace("<video>", "<image>" * config["num_frames"]) == case["prompt"]
    assert prompt.with_eos("</s>").stop == (case["stop_string"],)


SAMPLER = json.loads((FOLDER / "sampler.json").read_text()) if (FOLDER / "sampler.json").is_file() else []


@pytest.mark.parametrize("case", SAMPLER, ids=lambda case: case["name"])
def test_the_modality_grouped_order_equals_the_official_one(case):
    """The original leaves out what does not fill a megabatch of either modality; ours takes it last."""
    torch.manual_seed(case["torch_manual_seed"])
    order = list(modality_grouped_order(case["lengths"], case["batch_size"], case["world_size"]))
    assert order[: case["len_yielded"]] == case["indices"]
    assert sorted(order) == list(range(case["len_reported"]))


def test_the_systems_preprocessing_is_the_published_one():
    streams: dict[str, Preprocessing] = SYSTEM.architecture.preprocessing(
        SYSTEM.architecture.build_config(AutoConfig.for_model("llama"), {}, {})
    )
    assert streams == {"image": AnyPixelImagePreprocessing(), "video": AnyPixelVideoPreprocessing()}


@pytest.mark.parametrize("name", ["msvd_qa", "msrvtt_qa", "tgif_qa", "activitynet_qa"])
def test_benchmarks_are_asked_as_published(name):
    """scripts/videopanda/eval/run_qa_*.sh: conversation videopanda_v1, greedy, 1024 new tokens, the question alone."""
    system = SYSTEM
    benchmark = BENCHMARKS[name]
    protocol = benchmark.protocol(prompt_format=system.dialect.answering_prompt)
    protocol = protocol.with_overrides(benchmark.system_rules[system.name], "system")
    assert protocol.prompt_format == "videopanda_v1"
    assert not protocol.generation.do_sample and protocol.generation.max_new_tokens == 1024
    assert protocol.generation.stop == ("</s>",)
    assert protocol.question_text("Who?") == "<video>\nWho?"
    assert protocol.file_lookup.prefix == ("v_" if name == "activitynet_qa" else "")
    assert protocol.file_lookup.extensions == (".mp4", ".avi", ".mov", ".mkv")
