"""Our VideoChat-Flash around its towers against the official code: splicing, logits, loss, gradients, files."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig
from videochat_flash_fixture import FOLDER, read, text_sizes, tower_sizes

from vidtune.checkpoints.assembly.fill import model_from_state
from vidtune.checkpoints.report import LoadReport, rename
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Batch, Item
from vidtune.registry import SYSTEMS

SYSTEM = SYSTEMS["videochat_flash"]
FORMATS = {format.name: format for format in SYSTEM.publication.formats}
IMAGE, IGNORED = -200, -100
WEIGHTS = {"umt": "weights.safetensors", "iv2": "weights_internvideo2.safetensors"}


def make_config(config: dict, tower: str):
    text = AutoConfig.for_model("qwen2", **text_sizes(config, tower))
    return SYSTEM.architecture.build_config(text, {"vision": tower_sizes(config, tower)}, {})


@pytest.fixture(scope="module")
def models(config) -> dict[str, VideoLM]:
    """The model with each tower."""
    found = {}
    for tower, file in WEIGHTS.items():
        report = LoadReport("official")
        state = rename(read(file), FORMATS["official"].keys, report)
        found[tower] = model_from_state(make_config(config, tower), state, report).eval()
        report.refuse_gaps(FOLDER / file)
    return found


Sample = tuple[torch.Tensor, torch.Tensor, dict[str, list[Item]]]
"""Ids with a placeholder for every media token, labels, and the media of one sample."""


def media_of(model: VideoLM, config: dict, inputs: dict, tower: str) -> list[dict[str, list[Item]]]:
    """The media of each row of the batch: a video, a picture in tiles, none, two pictures."""
    columns, rows = config["dims"]["grid"]

    def item(stream: str, values: torch.Tensor, tiles: tuple[int, int] | None = None) -> Item:
        tokens = model.config.num_tokens(stream, tuple(values.shape))
        return Item(values, tokens, extras={} if tiles is None else {"tiles": torch.tensor(tiles)})

    video = item("video", inputs[f"{tower}.video"].transpose(0, 1))
    tiled = item("image", inputs[f"{tower}.image"].unsqueeze(2), (rows, columns))
    alone = [item("image", inputs[f"{tower}.{name}"][None, :, None], (0, 0)) for name in ("pad0", "pad1")]
    return [{"video": [video]}, {"image": [tiled]}, {}, {"image": alone}]


def samples_of(model: VideoLM, config: dict, inputs: dict, tower: str) -> list[Sample]:
    found = []
    for row, media in enumerate(media_of(model, config, inputs, tower)):
        kept = inputs["batch.attention_mask"][row]
        ids, labels = inputs["batch.input_ids"][row][kept].clone(), inputs["batch.labels"][row][kept]
        items = [item for given in media.values() for item in given]
        repeats, marks = torch.ones_like(ids), torch.nonzero(ids == IMAGE).flatten()
        repeats[marks] = torch.tensor([item.num_tokens for item in items], dtype=torch.long)
        ids[marks] = model.config.placeholder_ids[next(iter(media), "image")]
        found.append((ids.repeat_interleave(repeats), labels.repeat_interleave(repeats), media))
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


PARTS = {
    "vision_tower": "towers.",
    "mm_projector": "connectors.",
    "embed_tokens": "language_model.model.embed_tokens.",
    "llm": ("language_model.model.layers.", "language_model.model.norm."),
    "lm_head": "language_model.lm_head.",
}


def check_gradients(model: VideoLM, expected: dict, tower: str) -> None:
    for part, prefix in PARTS.items():
        own = [p.grad for name, p in model.named_parameters() if name.startswith(prefix) and p.grad is not None]
        norm = torch.stack([grad.square().sum() for grad in own]).sum().sqrt()
        torch.testing.assert_close(norm, expected[f"{tower}.batch.grad_norm.{part}"], atol=1e-7, rtol=1e-3)
    model.zero_grad(set_to_none=True)


def close(actual: torch.Tensor, wanted: torch.Tensor, atol: float = 2e-4) -> None:
    torch.testing.assert_close(actual.detach(), wanted, atol=atol, rtol=1e-4)


@pytest.mark.parametrize("tower", WEIGHTS)
def test_a_padded_batch_agrees(tower, models, config, inputs, expected):
    model = models[tower].requires_grad_(True)
    samples = samples_of(model, config, inputs, tower)
    ids, labels, mask, positions = padded(samples)
    embeds = model.embed(ids, joined(samples))
    output = model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, labels=labels)
    assert torch.equal(mask, expected[f"{tower}.splice.attention_mask"].bool())
    assert torch.equal(labels, expected[f"{tower}.splice.labels"])
    every, name = (4, "inputs_embeds_stride4") if tower == "iv2" else (1, "inputs_embeds")
    close(embeds[:, ::every][mask[:, ::every]], expected[f"{tower}.splice.{name}"][mask[:, ::every]])
    close(output.logits[..., ::4][mask], expected[f"{tower}.batch.logits_vocab_stride4"][mask], 1e-3)
    close(output.loss, expected[f"{tower}.batch.loss"], 1e-4)
    output.loss.backward()
    check_gradients(model, expected, tower)


@pytest.mark.parametrize("tower", WEIGHTS)
def test_a_pack_agrees_with_the_batch_and_with_its_samples_one_by_one(tower, models, config, inputs, expected):
    model = models[tower].requires_grad_(True)
    samples = samples_of(model, config, inputs, tower)
    batch = packed(samples)
    loss = model.loss_sum(batch) / batch.num_supervised
    loss.backward()
    close(loss, expected[f"{tower}.batch.loss"], 1e-5)
    check_gradients(model, expected, tower)
    with torch.no_grad():
        alone = sum(model.loss_sum(packed([sample])) for sample in samples)
    close(alone / batch.num_supervised, loss.detach(), 1e-6)


def test_padding_on_the_left_and_a_length_limit_agree(models, config, inputs, expected):
    model = models["umt"]
    samples = samples_of(model, config, inputs, "umt")
    _, labels, mask, positions = padded(samples, "left")
    assert torch.equal(labels, expected["umt.splice_left.labels"])
    assert torch.equal(mask, expected["umt.splice_left.attention_mask"].bool())
    assert torch.equal(positions * mask, expected["umt.splice_left.position_ids"] * mask)
    for tower in WEIGHTS:
        model = models[tower]
        samples = samples_of(model, config, inputs, tower)
        _, labels, mask, _ = padded(samples, limit=90)
        assert torch.equal(labels, expected[f"{tower}.splice_trunc90.labels"])
        assert torch.equal(mask, expected[f"{tower}.splice_trunc90.attention_mask"].bool())
        with torch.no_grad():
            found = model.embed(padded(samples)[0], joined(samples)).sum(-1)[:, :90]
        close(found[mask], expected[f"{tower}.splice_trunc90.inputs_embeds_sum"][mask], 1e-3)


def published_keys(keys, state: dict) -> dict:
    theirs = {keys.to_theirs(key): value for key, value in state.items()}
    return {key: tuple(value.shape) for key, value in keys.restore(theirs).items()}


def full_size(hidden: int, layers: int = 28, **text):
    sizes = {"num_attention_heads": hidden // 128, "num_key_value_heads": 4, "intermediate_size": 18944}
    sizes |= {"hidden_size": hidden, "num_hidden_layers": layers, "vocab_size": 152064, "tie_word_embeddings": False}
    return AutoConfig.for_model("qwen2", **{**sizes, **text})


def test_full_size_models_have_the_published_keys_and_shapes():
    published = {key: tuple(shape) for key, shape in read("full_keys.json").items()}
    config = SYSTEM.architecture.build_config(full_size(3584), {"vision": {"image_size": 448}}, {})
    keys = FORMATS["official"].keys
    with torch.device("meta"):
        assert published_keys(keys, VideoLM(config).state_dict()) == published
    vision = {key: tuple(shape) for key, shape in read("full_keys_internvideo2_vision_and_projector.json").items()}
    config = SYSTEM.architecture.build_config(full_size(3584, layers=1), {"vision": {"type": "internvideo2"}}, {})
    with torch.device("meta"):
        found = published_keys(keys, VideoLM(config).state_dict())
    assert {key: shape for key, shape in found.items() if "vision_tower" in key or "mm_projector" in key} == vision
