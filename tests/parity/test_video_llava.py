"""Our Video-LLaVA against tensors, tokens and transforms of the official code; every size is read from the fixture."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from vidtune.checkpoints.assembly.fill import model_from_state
from vidtune.checkpoints.files.folder import CheckpointFiles
from vidtune.checkpoints.load import load_checkpoint
from vidtune.checkpoints.lora.adapter_files import TRAINABLE_NAMES, official_name, read_adapter
from vidtune.checkpoints.lora.merging import merge
from vidtune.checkpoints.report import LoadReport, rename
from vidtune.checkpoints.write import export_state, save_checkpoint
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Turn
from vidtune.media.preprocessing.frame_sampling import frame_indices
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing
from vidtune.models.video_lm import VideoLM
from vidtune.planning.order import modality_grouped_order
from vidtune.processing.batch import Batch, Item
from vidtune.processing.prompts.format import PromptFormat
from vidtune.processing.tokenizer import ChunkTokenizer, load_tokenizer
from vidtune.processing.tokenizing import Encoded, Placeholder, encode
from vidtune.registry import SYSTEMS

FOLDER = Path(os.environ.get("VIDTUNE_PARITY", Path(__file__).parent / "fixtures")) / "video_llava"
SYSTEM = SYSTEMS["video_llava"]
FORMATS = {format.name: format for format in SYSTEM.publication.formats}
ATOL = 1e-4

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no video_llava fixtures in this folder")


def read(name: str):
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"{name} is not part of this fixture")
    return json.loads(path.read_text()) if path.suffix == ".json" else load_file(path)


def tower_sizes(spec: dict) -> dict:
    sizes = {key: value for key, value in spec.items() if key not in ("add_time_attn", "num_frames")}
    is_video = spec["add_time_attn"]
    return {**sizes, "temporal_attention": is_video, "num_frames": spec["num_frames"] if is_video else None}


def make_config(config: dict):
    towers = {
        name: {**tower_sizes(config[f"{name}_tower"]), "feature_layer": config["mm_vision_select_layer"]}
        for name in ("image", "video")
    }
    return SYSTEM.architecture.build_config(AutoConfig.for_model("llama", **config["llm"]), towers, {})


@pytest.fixture(scope="module")
def config() -> dict:
    return read("config.json")


@pytest.fixture(scope="module")
def inputs() -> dict:
    return read("inputs.safetensors")


@pytest.fixture(scope="module")
def expected() -> dict:
    return read("expected.safetensors")


@pytest.fixture(scope="module")
def model(config) -> VideoLM:
    report = LoadReport("official")
    state = rename(read("weights.safetensors"), FORMATS["official"].keys, report)
    loaded = model_from_state(make_config(config), state, report)
    report.refuse_gaps(FOLDER)
    return loaded.eval()


@pytest.fixture(scope="module")
def media(config, inputs) -> list[list[tuple[str, torch.Tensor]]]:
    """For every sample of the batch: its (stream, values) items in order, without the dummies of text-only samples."""
    flat = [inputs[key] for key in sorted(inputs) if key.startswith("images.")]
    samples, position = [], 0
    for sample in config["samples"]:
        items = [
            ("video" if value.dim() == 4 else "image", value) for value in flat[position:][: len(sample["visuals"])]
        ]
        position += len(sample["visuals"])
        has_placeholder = bool((inputs["input_ids"][sample["index"]] == config["image_token_index"]).any())
        samples.append(items if has_placeholder else [])
    return samples


def stacked(inputs, stream: str) -> torch.Tensor:
    """All items of a stream in list order, the dummy images of text-only samples included."""
    flat = [inputs[key] for key in sorted(inputs) if key.startswith("images.")]
    return torch.stack([value for value in flat if value.dim() == (4 if stream == "video" else 3)])


def expand(ids: torch.Tensor, items, model: VideoLM, config: dict, *rows: torch.Tensor):
    """Official ids (one placeholder per image or frame) -> ours (one per media token); ``rows`` are expanded alike."""
    out_ids, out_rows, queue, index = [], [[] for _ in rows], list(items), 0
    while index < len(ids):
        if ids[index] != config["image_token_index"]:
            out_ids.append(int(ids[index]))
            for out, row in zip(out_rows, rows, strict=True):
                out.append(int(row[index]))
            index += 1
            continue
        stream, values = queue.pop(0)
        tokens = model.config.num_tokens(stream, tuple(values.shape))
        out_ids += [model.config.placeholder_ids[stream]] * tokens
        for out in out_rows:
            out += [config["ignore_index"]] * tokens
        index += values.shape[1] if stream == "video" else 1
    assert not queue
    return torch.tensor(out_ids), *(torch.tensor(out) for out in out_rows)


def sample_ids(model, config, inputs, media, row: int):
    mask = inputs["attention_mask"][row].bool()
    return expand(inputs["input_ids"][row][mask], media[row], model, config, inputs["labels"][row][mask])


def stream_items(model, items) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = {}
    for stream, value in items:
        item = Item(value, model.config.num_tokens(stream, tuple(value.shape)))
        found.setdefault(stream, []).append(item)
    return found


def joined(model, media) -> dict[str, list[Item]]:
    return stream_items(model, [item for items in media for item in items])


def make_pack(model, config, inputs, media, rows) -> Batch:
    ids, labels = zip(*(sample_ids(model, config, inputs, media, row) for row in rows), strict=True)
    labels = [torch.cat([torch.tensor([config["ignore_index"]]), label[1:]]) for label in labels]
    cu_seqlens = [0]
    for row in ids:
        cu_seqlens.append(cu_seqlens[-1] + len(row))
    return Batch(
        input_ids=torch.cat(ids)[None],
        position_ids=torch.cat([torch.arange(len(row)) for row in ids])[None],
        labels=torch.cat(labels)[None],
        cu_seqlens=cu_seqlens,
        ids=[str(row) for row in rows],
        media=joined(model, [media[row] for row in rows]),
    )


def padded(model, config, inputs, media, side: str):
    """The whole batch as the official collator and splicer leave it: ids, labels, mask, position ids."""
    rows = [sample_ids(model, config, inputs, media, row) for row in range(len(media))]
    length = max(len(ids) for ids, _ in rows)
    shape = (len(rows), length)
    ids, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, config["ignore_index"])
    mask, positions = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.long)
    for row, (row_ids, row_labels) in enumerate(rows):
        span = slice(0, len(row_ids)) if side == "right" else slice(length - len(row_ids), length)
        ids[row, span], labels[row, span], mask[row, span] = row_ids, row_labels, True
        positions[row, span] = torch.arange(len(row_ids))
    return ids, labels, mask, positions


def close(actual: torch.Tensor, wanted: torch.Tensor, atol: float = ATOL) -> None:
    torch.testing.assert_close(actual.float(), wanted.float(), atol=atol, rtol=0)


@pytest.mark.parametrize("stream", ["image", "video"])
def test_towers_agree_layer_by_layer(stream, model, inputs, expected):
    tower, values = model.towers[stream], stacked(inputs, stream)
    frames = values.transpose(1, 2).flatten(0, 1) if stream == "video" else values
    with torch.no_grad():
        states = list(tower.hidden_states(frames))
        features = tower(values)
        embeddings = tower.embeddings(frames)
    if f"{stream}_tower.embeddings" in expected:
        close(embeddings, expected[f"{stream}_tower.embeddings"])
    for index, state in enumerate(states):
        close(state, expected[f"{stream}_tower.hidden_states.{index}"].view_as(state))
    close(features, expected[f"{stream}_tower.output"].reshape(features.shape))


def test_the_first_video_layer_alone_agrees(model, expected):
    layer = model.towers["video"].encoder.layers[0]
    close(layer(expected["video_tower.layer0.input"], None), expected["video_tower.layer0.output"])


def test_a_clip_of_another_length_is_refused(model, media):
    clip = next(value for items in media for name, value in items if name == "video")
    with pytest.raises(ValueError, match="clips of"):
        model.towers["video"](torch.cat([clip, clip], dim=1)[None])


def test_connector_outputs_agree(model, inputs, expected):
    with torch.no_grad():
        images = model.encode("image", stacked(inputs, "image"))
        videos = model.encode("video", stacked(inputs, "video"))
    close(images, expected["projector.images"])
    close(videos, expected["projector.videos"].flatten(1, 2))


def test_embeddings_with_placeholders_equal_the_spliced_ones(model, config, inputs, media, expected):
    ids, labels, mask, positions = padded(model, config, inputs, media, "right")
    with torch.no_grad():
        embeds = model.embed(ids, joined(model, media))
    assert torch.equal(mask, expected["train.attention_mask"].bool())
    assert torch.equal(labels, expected["train.labels"])
    assert torch.equal(positions * mask, expected["train.position_ids"] * mask)
    close(embeds[mask], expected["train.inputs_embeds"][mask])


@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_forward_agrees(side, model, config, inputs, media, expected):
    name = {"right": "train", "left": "left"}[side]
    ids, labels, mask, positions = padded(model, config, inputs, media, side)
    with torch.no_grad():
        output = model(
            ids,
            attention_mask=mask,
            position_ids=positions,
            labels=labels,
            media=joined(model, media),
            output_hidden_states=True,
        )
    logits = expected[f"{name}.logits"]
    rows = len(logits)
    close(output.logits[:rows][mask[:rows]], logits[mask[:rows]])
    close(output.loss, expected[f"{name}.loss"], 1e-5)
    if side == "right":
        assert torch.equal(labels, expected["train.labels"])
        for index in (0, len(output.hidden_states) - 1):
            close(output.hidden_states[index][mask], expected[f"train.llm_hidden_states.{index}"][mask])
    else:
        assert torch.equal(labels, expected["left.labels"])
        assert torch.equal(mask, expected["left.attention_mask"].bool())


def test_packed_loss_and_gradients_agree(model, config, inputs, media, expected):
    batch = make_pack(model, config, inputs, media, range(len(media)))
    model.requires_grad_(True)
    model.towers.requires_grad_(False)
    model.zero_grad(set_to_none=True)
    loss = model.loss_sum(batch) / batch.num_supervised
    loss.backward()
    close(loss.detach(), expected["train.loss"], 1e-5)
    keys = FORMATS["official"].keys
    gradients = {keys.to_theirs(name): p.grad for name, p in model.named_parameters() if p.grad is not None}
    for name, wanted in expected.items():
        if name.startswith("grad."):
            close(gradients[name.removeprefix("grad.")], wanted, 1e-5)
        elif name.startswith("grad_norm."):
            prefix = name.removeprefix("grad_norm.") + "."
            parts = [grad.flatten() for key, grad in gradients.items() if key.startswith(prefix)]
            close(torch.cat(parts).norm() if parts else torch.tensor(0.0), wanted, 1e-4)
    model.zero_grad(set_to_none=True)


def test_every_sample_alone_agrees(model, config, inputs, media, expected):
    for row in range(len(media)):
        ids, labels = sample_ids(model, config, inputs, media, row)
        with torch.no_grad():
            output = model(ids[None], labels=labels[None], media=stream_items(model, media[row]))
        close(output.loss, expected[f"single.{row}.loss"], 1e-5)
        close(output.logits[0, -1], expected[f"single.{row}.logits_last"])


def test_truncation_inside_a_visual_block_agrees(model, config, inputs, media, expected):
    limit = config["truncated"]["tokenizer_model_max_length"]
    losses, count = 0.0, 0
    for row in range(len(media)):
        ids, labels = (part[:limit] for part in sample_ids(model, config, inputs, media, row))
        kept, used = [], {}
        for stream, value in media[row]:
            total = int((ids == model.config.placeholder_ids[stream]).sum())
            tokens = min(model.config.num_tokens(stream, tuple(value.shape)), total - used.get(stream, 0))
            used[stream] = used.get(stream, 0) + max(tokens, 0)
            if tokens > 0:
                kept.append((stream, value, tokens))
        batches = {
            stream: [Item(value, number) for name, value, number in kept if name == stream]
            for stream in {stream for stream, _, _ in kept}
        }
        with torch.no_grad():
            embeds = model.embed(ids[None], batches)[0]
            logits = model(inputs_embeds=embeds[None]).logits[0]
        close(embeds, expected["truncated.inputs_embeds"][row, : len(ids)])
        close(logits, expected["truncated.logits"][row, : len(ids)])
        assert torch.equal(labels, expected["truncated.labels"][row, : len(ids)])
        supervised = labels[1:] != config["ignore_index"]
        losses += torch.nn.functional.cross_entropy(logits[:-1][supervised], labels[1:][supervised], reduction="sum")
        count += int(supervised.sum())
    close(losses / count, expected["truncated.loss"], 1e-5)


@pytest.mark.parametrize("name", ["image", "video", "mixed"])
def test_greedy_generation_agrees(name, model, config, inputs, media, expected):
    settings = config["generate"][name]
    items = media[settings["sample"]]
    (ids,) = expand(inputs[f"generate.{name}.input_ids"][0], items, model, config)
    new = settings["max_new_tokens"]
    output = model.generate(
        ids[None],
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        media=stream_items(model, items),
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_logits=True,
    )
    assert output.sequences[0, -new:].tolist() == expected[f"generate.{name}.sequences"][0, -new:].tolist()
    close(torch.stack(output.logits, dim=1), expected[f"generate.{name}.scores"])


def test_official_keys_survive_a_round_trip(model):
    weights = read("weights.safetensors")
    exported = export_state(model, FORMATS["official"])
    kept = {name for name in weights if not FORMATS["official"].keys.is_ignored(name)}
    assert set(exported) == kept
    assert all(torch.equal(exported[name], weights[name]) for name in kept)


def test_projector_file_is_the_connector(model):
    exported = export_state(model, FORMATS["projector"])
    stored = read("mm_projector.safetensors")
    assert set(exported) == set(stored)
    assert all(torch.equal(exported[name], stored[name]) for name in stored)


def full_size_config(vocab_size: int):
    text = AutoConfig.for_model(
        "llama", vocab_size=vocab_size, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
        num_attention_heads=32,
    )  # fmt: skip
    return SYSTEM.architecture.build_config(text, {}, {})


@pytest.mark.parametrize(("name", "file"), [("official", "full_keys.json"), ("transformers", "hf_full_keys.json")])
def test_full_size_model_has_the_published_keys_and_shapes(name, file):
    published, keys = {key: tuple(shape) for key, shape in read(file).items()}, FORMATS[name].keys
    embedding = next(shape for key, shape in published.items() if key.endswith("embed_tokens.weight"))
    config = full_size_config(embedding[0])
    config.towers["video"]["temporal_attention"] = name == "official"
    with torch.device("meta"):
        state = VideoLM(config).state_dict()
    ours = {keys.to_theirs(key): tuple(value.shape) for key, value in state.items()}
    assert ours == {key: shape for key, shape in published.items() if not keys.is_ignored(key)}


@pytest.fixture(scope="module")
def hf_config(config, expected) -> dict:
    """What transformers' hub config of this model says; the activation is CLIP's default because it is not written."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    extra = len(read("hf.safetensors")["hf.extra_embed_rows"])
    return {
        "model_type": "video_llava",
        "vision_config": {"model_type": "clip_vision_model", **{name: config["video_tower"][name] for name in names}},
        "text_config": {"model_type": "llama", **config["llm"], "vocab_size": config["llm"]["vocab_size"] + extra},
        "vision_feature_layer": config["mm_vision_select_layer"],
    }


def hf_model(hf_config, **tower_overrides) -> VideoLM:
    """The model as transformers' hub file holds it: our official weights under its names, temporal parts dropped."""
    stored, weights = read("hf.safetensors"), read("weights.safetensors")
    official, hub = FORMATS["official"].keys, FORMATS["transformers"]
    state = {
        hub.keys.to_theirs(official.to_ours(key)): value
        for key, value in weights.items()
        if official.to_ours(key) and "temporal_" not in key
    }
    for key, rows in (("embed_tokens", "embed"), ("lm_head", "lm_head")):
        name = next(name for name in state if name.endswith(f"{key}.weight"))
        state[name] = torch.cat([state[name], stored[f"hf.extra_{rows}_rows"]])
    assert hub.matches(hf_config, state)
    ours = hub.read_config(hf_config, {})
    for tower in ours.towers.values():
        tower.update(tower_overrides)
    report = LoadReport("transformers")
    model = model_from_state(ours, rename(state, hub.keys, report), report)
    report.refuse_gaps(FOLDER)
    assert "attention over time" in hub.warnings(model.config)[0]
    return model.eval()


def test_transformers_format_agrees(hf_config, config, inputs):
    stored, model = read("hf.safetensors"), hf_model(hf_config)
    images, videos = stacked(inputs, "image"), stacked(inputs, "video")
    with torch.no_grad():
        close(model.encode("image", images), stored["hf.image_features"])
        close(
            model.encode("video", videos),
            stored["hf.video_features"].reshape(len(videos), -1, model.config.text_config.hidden_size),
        )
    first = config["llm"]["vocab_size"]
    ids, mask = stored["hf.input_ids"].clone(), stored["hf.attention_mask"]
    for offset, stream in enumerate(("image", "video")):
        ids[ids == first + offset] = model.config.placeholder_ids[stream]
    media = {
        stream: [Item(value, model.config.num_tokens(stream, tuple(value.shape))) for value in values]
        for stream, values in (("image", images[:3]), ("video", videos[:2]))
    }
    for positions, name in ((None, "hf.loss"), (stored["hf.position_ids"], "hf.loss_explicit_position_ids")):
        with torch.no_grad():
            output = model(ids, attention_mask=mask, position_ids=positions, labels=stored["hf.labels"], media=media)
        close(output.loss, stored[name], 1e-5)
    close(output.logits[mask.bool()], stored["hf.logits"][mask.bool()])


def test_transformers_format_with_exact_gelu_agrees(hf_config, inputs):
    stored, model = read("hf.safetensors"), hf_model(hf_config, hidden_act="gelu")
    videos = stacked(inputs, "video")
    with torch.no_grad():
        features = model.encode("video", videos)
    close(features, stored["hf_gelu.video_features"].reshape(features.shape))


@pytest.fixture(scope="module")
def lora_folder(tmp_path_factory) -> Path:
    """A LoRA run's output as the official trainer leaves it (pickled), next to the base it was trained for."""
    folder = tmp_path_factory.mktemp("llava-lora")
    torch.save(read("lora_adapter_model.safetensors"), folder / "adapter_model.bin")
    torch.save(read("lora_non_lora_trainables.safetensors"), folder / "non_lora_trainables.bin")
    (folder / "adapter_config.json").write_text(json.dumps(read("lora_adapter_config.json")))
    return folder


def test_merged_lora_run_agrees(lora_folder, model, config, inputs, media, expected):
    report = LoadReport("official")
    state = rename(read("weights.safetensors"), FORMATS["official"].keys, report)
    files = CheckpointFiles(lora_folder)
    trainables = {official_name(name): tensor for name, tensor in files.tensors(TRAINABLE_NAMES).items()}
    state |= rename(trainables, FORMATS["projector"].keys, report)
    merged = model_from_state(make_config(config), state, report).eval()
    merge(merged, read_adapter(files), FORMATS["official"].keys, lora_folder)
    for name, wanted in expected.items():
        if name.startswith("lora.merged.weight."):
            ours = FORMATS["official"].keys.to_ours(name.removeprefix("lora.merged.weight.") + ".weight")
            close(merged.get_parameter(ours), wanted, 1e-5)
    ids, labels, mask, positions = padded(merged, config, inputs, media, "right")
    with torch.no_grad():
        output = merged(ids, attention_mask=mask, position_ids=positions, labels=labels, media=joined(merged, media))
    rows = len(expected["lora.merged.logits"])
    close(output.logits[:rows][mask[:rows]], expected["lora.merged.logits"][mask[:rows]])
    close(output.loss, expected["lora.merged.loss"], 1e-5)
    close(output.loss, expected["lora.unmerged.loss"], 1e-5)


@pytest.fixture(scope="module")
def lora_run(lora_folder, model, tmp_path_factory) -> tuple[Path, Path]:
    """The same folder with the config that names its towers, and the language model it was trained for."""
    parts = tmp_path_factory.mktemp("parts")
    model.language_model.save_pretrained(parts / "llm")
    (parts / "llm/tokenizer.model").write_bytes((FOLDER / "tokenizer.model").read_bytes())
    for name in ("image", "video"):
        (parts / name).mkdir()
        tower = {f"vision_model.{key}": value for key, value in model.towers[name].state_dict().items()}
        save_file(tower, parts / name / "model.safetensors")
        sizes = {key: value for key, value in read("config.json")[f"{name}_tower"].items()}
        (parts / name / "config.json").write_text(json.dumps({"vision_config": sizes}))
    towers = {name: str(parts / name) for name in ("image", "video")}
    run = tmp_path_factory.mktemp("whole-llava-lora")
    shutil.copytree(lora_folder, run, dirs_exist_ok=True)
    (run / "config.json").write_text(json.dumps(FORMATS["official_lora"].write_config(model.config, towers)))
    return run, parts / "llm"


def test_lora_run_is_read_from_its_folder_and_written_back_unchanged(lora_run, tmp_path, expected):
    run, base = lora_run
    loaded = load_checkpoint(run, base=str(base))
    assert loaded.report.format == "official_lora"
    keys = FORMATS["official"].keys
    for name, wanted in expected.items():
        if name.startswith("lora.merged.weight."):
            weight = keys.to_ours(name.removeprefix("lora.merged.weight.") + ".weight")
            close(loaded.model.get_parameter(weight), wanted, 1e-5)
    save_checkpoint(loaded, tmp_path / "written", "official_lora")
    for file in ("adapter_model.bin", "non_lora_trainables.bin"):
        stored, written = (torch.load(folder / file, weights_only=True) for folder in (run, tmp_path / "written"))
        assert stored.keys() == written.keys()
        assert all(torch.equal(stored[key], written[key]) for key in stored)
    assert json.loads((tmp_path / "written/adapter_config.json").read_text()) == read("lora_adapter_config.json")
    again = load_checkpoint(tmp_path / "written", base=str(base)).model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in loaded.model.state_dict().items())


PROMPTS = {name: prompt.with_eos("</s>") for name, prompt in SYSTEM.dialect.prompts.items()}
TRAINING_PROMPT = PROMPTS[SYSTEM.dialect.training_prompt]
TOKENS = json.loads((FOLDER / "tokens.json").read_text()) if (FOLDER / "tokens.json").is_file() else {}
FRAMES = len(next(iter(TOKENS.get("frame_indices_linspace8", {"": [0] * 8}).values())))
IMAGE, VIDEO = 10_000, 10_001
TOKENS_PER_PICTURE = {IMAGE: 4, VIDEO: 5}


@pytest.fixture(scope="module", params=[True, False], ids=["legacy", "not_legacy"])
def tokenizer(request: pytest.FixtureRequest) -> ChunkTokenizer:
    return ChunkTokenizer(load_tokenizer(FOLDER, legacy=request.param))


@pytest.fixture(scope="module")
def legacy_tokenizer() -> ChunkTokenizer:
    return ChunkTokenizer(load_tokenizer(FOLDER, legacy=True))


def placeholders_of(turns: list[Turn]) -> list[Placeholder]:
    text = "".join(turn.text for turn in turns)
    media = {
        "image": Placeholder("image", ((IMAGE, TOKENS_PER_PICTURE[IMAGE]),)),
        "video": Placeholder("video", ((VIDEO, TOKENS_PER_PICTURE[VIDEO] * FRAMES),), FRAMES),
    }
    tags = [part.split(">")[0] for part in text.split("<")[1:]]
    return [media[tag] for tag in tags if tag in media]


def encoded(
    conversation: list[list[str]], prompt: PromptFormat, tokenizer: ChunkTokenizer, **options: object
) -> Encoded:
    turns = [Turn("user" if role == "human" else "assistant", text) for role, text in conversation]
    return encode(turns, prompt, tokenizer, placeholders_of(turns), streams=("image", "video"), **options)  # type: ignore[arg-type]


def contracted(ids: np.ndarray, values: np.ndarray, media: int = -200) -> list[int]:
    """Values with each picture's or frame's run of placeholders written once, as the official code has them."""
    result, position = [], 0
    while position < len(ids):
        run = TOKENS_PER_PICTURE.get(int(ids[position]))
        if run is None:
            result.append(int(values[position]))
        else:
            assert len(set(values[position : position + run].tolist())) == 1
            result.append(media)
        position += run or 1
    return result


@pytest.mark.parametrize("name", TOKENS.get("cases", ()))
def test_training_tokens_and_labels_equal_the_official_ones(name: str, legacy_tokenizer: ChunkTokenizer):
    case = TOKENS["cases"][name]
    result = encoded(case["conversation"], TRAINING_PROMPT, legacy_tokenizer)
    assert contracted(result.input_ids, result.input_ids) == case["input_ids"]
    assert contracted(result.input_ids, result.labels, -100) == case["labels"]
    assert (result.masked is not None) == case["tokenization_mismatch_warning"]


@pytest.mark.parametrize("name", TOKENS.get("cases_tokenizer_legacy_false", ()))
def test_the_newer_tokenizer_flavour_equals_the_official_one(name: str):
    case = TOKENS["cases_tokenizer_legacy_false"][name]
    tokenizer = ChunkTokenizer(load_tokenizer(FOLDER, legacy=False))
    result = encoded(TOKENS["cases"][name]["conversation"], TRAINING_PROMPT, tokenizer)
    assert contracted(result.input_ids, result.input_ids) == case["input_ids"]
    assert contracted(result.input_ids, result.labels, -100) == case["labels"]
    assert (result.masked is not None) == case["tokenization_mismatch_warning"]


def test_a_plain_caption_equals_the_official_one(legacy_tokenizer: ChunkTokenizer):
    case = TOKENS["plain_image_single"]
    question, answer = case["values_after_multimodal"]
    result = encoded([["human", question], ["gpt", answer]], PROMPTS["plain"], legacy_tokenizer)
    assert contracted(result.input_ids, result.input_ids) == case["input_ids"]
    assert contracted(result.input_ids, result.labels, -100) == case["labels"]


def test_a_plain_prompt_refuses_video_which_the_official_code_cuts_to_one_frame(
    legacy_tokenizer: ChunkTokenizer,
):
    assert TOKENS["plain_video_single"]["input_ids"].count(-200) == 1
    with pytest.raises(SampleProblem, match="<image>"):
        encoded([["human", "<video>\nDescribe."], ["gpt", "The dog runs."]], PROMPTS["plain"], legacy_tokenizer)


def test_lengths_with_and_without_a_limit_equal_the_official_collation(legacy_tokenizer: ChunkTokenizer):
    def lengths(max_length: int | None) -> list[int]:
        results = [
            encoded(TOKENS["cases"][name]["conversation"], TRAINING_PROMPT, legacy_tokenizer, max_length=max_length)
            for name in TOKENS["collated"]["order"]
        ]
        return [len(contracted(result.input_ids, result.input_ids)) for result in results]

    assert lengths(None) == TOKENS["collated"]["attention_mask_sums"]
    assert max(lengths(None)) == TOKENS["collated"]["input_ids_shape"][1]
    assert max(lengths(40)) == TOKENS["collated_max40_shape"][1]


@pytest.mark.parametrize("max_length", [1, 38, 40, 44, 60, 80])
@pytest.mark.parametrize("name", TOKENS.get("cases", ()))
def test_a_length_limit_keeps_the_official_prefix(name: str, max_length: int, legacy_tokenizer: ChunkTokenizer):
    case = TOKENS["cases"][name]
    result = encoded(case["conversation"], TRAINING_PROMPT, legacy_tokenizer, max_length=max_length)
    assert contracted(result.input_ids, result.input_ids) == case["input_ids"][:max_length]
    assert contracted(result.input_ids, result.labels, -100) == case["labels"][:max_length]


def conversation_of(prompt: str, format: PromptFormat) -> list[list[str]]:
    """The turns that an official prompt string was made from, found by its roles and separators."""
    user, assistant = format.user.before, format.assistant.before
    after_user, after_assistant = format.user.after, format.assistant.end
    rounds = prompt.removeprefix(format.system + after_user).split(after_assistant)
    if after_user == after_assistant:
        return [["human", rounds[0].removeprefix(user)]]
    turns = []
    for text in rounds:
        question, _, answer = text.removeprefix(user).partition(after_user + assistant)
        turns += [["human", question], ["gpt", answer.removeprefix(" ")]]
    return turns[:-1]


@pytest.mark.parametrize("name", TOKENS.get("inference_prompts", ()))
def test_question_prompts_equal_the_official_ones(name: str, legacy_tokenizer: ChunkTokenizer):
    expected = TOKENS["inference_prompts"][name]
    format = next(format for key, format in PROMPTS.items() if name == key or name.startswith(key + "_"))
    conversation = conversation_of(expected["prompt"], format)
    turns = [Turn("user" if role == "human" else "assistant", text) for role, text in conversation]
    assert "".join(piece.text for piece in format.render(turns, open_answer=True)) == expected["prompt"]
    result = encoded(conversation, format, legacy_tokenizer, supervise=False, open_answer=True)
    assert contracted(result.input_ids, result.input_ids) == expected["input_ids"]
    assert (result.labels == -100).all()


def test_a_clip_stands_for_its_frames_in_a_question_prompt(legacy_tokenizer: ChunkTokenizer):
    expected = TOKENS["inference_prompts"]["llava_v1"]
    [[role, question]] = conversation_of(expected["prompt"], PROMPTS["llava_v1"])
    conversation = [[role, question.replace("<image>" * FRAMES, "<video>")]]
    assert "<video>" in conversation[0][1]
    result = encoded(conversation, PROMPTS["llava_v1"], legacy_tokenizer, supervise=False, open_answer=True)
    assert contracted(result.input_ids, result.input_ids) == expected["input_ids"]


def test_text_without_special_tokens_is_tokenised_as_sentencepiece_does(tokenizer: ChunkTokenizer):
    sentencepiece = pytest.importorskip("sentencepiece")
    reference = sentencepiece.SentencePieceProcessor(model_file=str(FOLDER / "tokenizer.model"))
    rng = np.random.default_rng(0)
    words = [*"aei ou.,:\n\t é漢😀", " ", "  ", "ASSISTANT:", "USER:", "dog", " the", "Describe"]
    for _ in range(500):
        text = "".join(rng.choice(words, rng.integers(1, 30)))
        assert tokenizer(text).ids == reference.encode(text), repr(text)


@pytest.mark.parametrize("num_frames", TOKENS.get("frame_indices_linspace8", ()))
def test_frame_indices_equal_the_official_ones(num_frames: str):
    expected = TOKENS["frame_indices_linspace8"][num_frames]
    assert list(frame_indices("linspace", int(num_frames), FRAMES)) == expected


@pytest.mark.parametrize("case", TOKENS.get("modality_length_grouped_sampler", ()), ids=str)
def test_the_modality_grouped_order_equals_the_official_one(case: dict):
    torch.manual_seed(case["torch_manual_seed"])
    order = modality_grouped_order(np.array(case["lengths"]), case["batch_size"], case["world_size"])
    assert order.tolist() == case["indices"]


@pytest.fixture(scope="module")
def pixels() -> dict:
    return read("preprocess.safetensors")


def transformed_cases(pixels: dict, kind: str) -> list[str]:
    """Names of the media of a kind; at least one, or the fixture is not what its README says."""
    names = sorted({key.split(".")[1] for key in pixels if key.startswith(f"{kind}.") and key.endswith(".input")})
    assert names
    return names


def assert_statistics(values: torch.Tensor, wanted: torch.Tensor) -> None:
    close(torch.stack([values.mean(), values.std()]), wanted, 1e-5)


@pytest.mark.parametrize("name", ["square", "pad"])
def test_images_equal_the_official_transform(name, pixels):
    for case in transformed_cases(pixels, "image"):
        preprocessing = ImagePreprocessing(pad_to_square=name == "pad")
        values = preprocessing.apply(pixels[f"image.{case}.input"].numpy())
        close(values[:, ::7, ::7], pixels[f"image.{case}.{name}.strided7"], 1e-5)
        assert_statistics(values, pixels[f"image.{case}.{name}.mean_std"])


@pytest.mark.parametrize(("name", "flip_probability"), [("noflip", 0.0), ("flip", 1.0)])
def test_clips_equal_the_official_transform(name, flip_probability, pixels):
    for case in (case for case in transformed_cases(pixels, "video") if f"video.{case}.{name}.strided14" in pixels):
        values = VideoPreprocessing(flip_probability=flip_probability).apply(
            pixels[f"video.{case}.input"].numpy(), seed=0
        )
        close(values[:, :, ::14, ::14], pixels[f"video.{case}.{name}.strided14"], 1e-5)
        assert_statistics(values, pixels[f"video.{case}.{name}.mean_std"])


def test_the_systems_preprocessing_is_the_published_one():
    streams = SYSTEM.architecture.preprocessing(full_size_config(32000))
    assert streams == {"image": ImagePreprocessing(), "video": VideoPreprocessing()}
