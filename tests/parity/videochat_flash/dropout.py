"""Token dropout inside the language model equals the original, alone and for questions on a shared prefix."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Qwen2Config
from videochat_flash_fixture import read

from vidtune.data.sample import MediaRef
from vidtune.generation.decoding import SinglePrompt
from vidtune.generation.grouping import Prompt
from vidtune.generation.prompt_tokens import EncodedMedia
from vidtune.generation.shared_prefix import Branches, Prefix
from vidtune.models.config import VideoLMConfig
from vidtune.models.language_model.layer_program import uniform
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Example, Item, MediaSlot, pack
from vidtune.registry import CONNECTORS

VARIANTS = read("config.json")["notes"]["drop_variants"]
PLACEHOLDER = -200


@dataclass(frozen=True)
class PassedOnConfig:
    """Connector whose input is embeddings already."""

    input_size: int
    output_size: int

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        return shape[0]

    def build(self) -> nn.Module:
        return nn.Identity()


@pytest.fixture(scope="module")
def connector():
    CONNECTORS.register("passed_on", PassedOnConfig)
    yield
    CONNECTORS.unregister("passed_on")


@pytest.fixture(scope="module")
def whole(connector, config):
    """The language model of the fixture; a stream stands in for towers, its items are embeddings."""
    sizes = config["dims"]["llm"]
    width = sizes["hidden_size"]
    built = VideoLMConfig(
        system="video_llava",
        text_config=Qwen2Config(**sizes, **config["llm_common"]),
        towers={"vision": {"type": "clip", "hidden_size": width, "num_attention_heads": 1, "absent": "umt"}},
        connectors={"visual": {"type": "passed_on", "input_size": width, "output_size": width}},
        streams={"video": {"tower": "vision", "connector": "visual"}},
    )
    model = VideoLM(built).eval()
    weights = read("weights.safetensors")
    own = {key: value for key, value in weights.items() if "vision_tower" not in key and "mm_projector" not in key}
    model.language_model.load_state_dict(own)
    return model


@pytest.fixture
def model(whole):
    yield whole.eval()
    whole.use_layer_program([])


def program(variant: str) -> list[dict]:
    given = VARIANTS[variant]
    if not given["mm_llm_compress"]:
        return []
    kind = given["llm_compress_type"]  # uniformK_attention: at equal distances up to step K
    first = int(kind[len("uniform")]) + 1 if kind.endswith("_attention") else {"attention": 0, "uniform": 99}[kind]
    return [
        {"after": layer, "drop": ["video"], "keep": keep, "rule": "attention" if k >= first else "uniform"}
        | {"compact": True}
        for k, (layer, keep) in enumerate(
            zip(given["llm_compress_layer_list"], given["llm_image_token_ratio_list"][1:], strict=True)
        )
    ]


def sample(model, inputs, expected, name: str = "input_ids") -> tuple[Example, Item]:
    """The video sample of the fixture, or its prompt alone."""
    ids = inputs[f"single.{name}"][0].numpy()
    labels = inputs["single.labels"][0].numpy() if name == "input_ids" else np.full(len(ids), -100)
    at = int(np.flatnonzero(ids == PLACEHOLDER)[0])
    embeds = expected["umt.splice.inputs_embeds"][0]
    tokens = int(expected["umt.splice.attention_mask"][0].sum()) - len(inputs["single.input_ids"][0]) + 1
    parts = [(ids[:at], -1), (np.full(tokens, model.config.placeholder_ids["video"]), 0), (ids[at + 1 :], -1)]
    slot = MediaSlot(MediaRef("video", "/video.safetensors"), tokens)
    example = Example(
        "",
        np.concatenate([part for part, _ in parts]).astype(np.int64),
        np.concatenate([labels[:at], np.full(tokens, -100), labels[at + 1 :]]).astype(np.int64),
        (slot,),
        owners=np.concatenate([np.full(len(part), owner) for part, owner in parts]),
    )
    return example, Item(embeds[at : at + tokens], tokens, encoded=True)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_kept_tokens_logits_and_loss_equal_the_original(model, inputs, expected, variant, training):
    model.train(training)
    model.use_layer_program(program(variant))
    example, item = sample(model, inputs, expected)
    batch, prefix = pack([example], [[item]]), f"drop.{variant}.{'train' if training else 'eval'}"
    embeds, media = model.read(batch.input_ids, batch.media)
    plan = model.plan(batch, media)
    with torch.no_grad():
        logits = model.language_model(
            inputs_embeds=embeds,
            position_ids=batch.position_ids,
            **plan.inputs(model.language_model.get_decoder(), batch.position_ids),
        ).logits
        loss = model.loss_sum(batch) / batch.num_supervised
        other = model(batch.input_ids, labels=batch.labels, media=batch.media)
    for number in range(len(model.program.boundaries)):
        if number + 1 < len(plan.stages):
            stage = plan.stages[number + 1]
            kept, positions = torch.from_numpy(stage.chosen), torch.from_numpy(stage.kept - stage.shift)[None]
        else:
            kept, positions = plan.guided.chosen[number + 1].gather, plan.guided.chosen[number + 1].position_ids
        assert torch.equal(kept, expected[f"{prefix}.stage{number}.kept_index"])
        assert torch.equal(positions, expected[f"{prefix}.stage{number}.position_ids"])
    assert [sum(counts) for counts in plan.counts[1:]] == [
        len(expected[f"{prefix}.stage{number}.kept_index"]) for number in range(len(model.program.boundaries))
    ]
    torch.testing.assert_close(logits[:, -12:], expected[f"{prefix}.logits_last12"], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(loss, expected[f"{prefix}.loss"], atol=1e-4, rtol=0)
    torch.testing.assert_close(other.loss, expected[f"{prefix}.loss"], atol=1e-4, rtol=0)
    torch.testing.assert_close(other.logits[:, -12:], logits[:, -12:], atol=1e-5, rtol=0)


def greedy(prompts, count: int) -> list[int]:
    logits, found = prompts.start(), []
    for _ in range(8):
        found.append(logits.argmax(-1).tolist())
        logits = prompts.step(found[-1])
    return [list(tokens) for tokens in zip(*found, strict=True)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_generated_tokens_equal_the_original(model, inputs, expected, variant):
    model.use_layer_program(program(variant))
    example, item = sample(model, inputs, expected, "prompt_ids")
    tokens = expected[f"drop.{variant}.generate.token_ids"][0].tolist()
    prompt = Prompt(example, 0, 8)
    media = EncodedMedia(model, {"video": [item]})
    assert greedy(SinglePrompt(model.language_model, media.tokens([prompt])), 1) == [tokens]
    # The same question among others that share all tokens but their last ones.
    others = [Prompt(changed(example, end), 0, 8) for end in ([9, 8], [30, 31, 32, 33])]
    shared = int(np.flatnonzero(example.owners == 0)[-1]) + 1
    prefix = Prefix(model.language_model, media.tokens([prompt], end=shared))
    together = greedy(Branches(prefix, media.tokens([others[0], prompt, others[1]], begin=shared)), 3)
    assert together[1] == tokens
    alone = [greedy(SinglePrompt(model.language_model, media.tokens([other])), 1)[0] for other in others]
    assert [together[0], together[2]] == alone
    generated = model.generate(
        torch.from_numpy(example.input_ids)[None],
        media={"video": [item]},
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert generated[0, len(example.input_ids) :].tolist() == tokens


def changed(example: Example, end: list[int]) -> Example:
    """The same sample with another end after its media."""
    last = int(np.flatnonzero(example.owners == 0)[-1]) + 1
    ids = np.concatenate([example.input_ids[:last], end])
    owners = np.concatenate([example.owners[:last], [-1] * len(end)])
    return Example("", ids, np.full(len(ids), -100), example.media, owners=owners)


def test_equal_distances_are_rounded_as_in_the_original(expected):
    found = [key.split(".")[1:] for key in expected if key.startswith("linspace_long.")]
    assert found
    for last, kept in found:
        rows = uniform(int(last) + 1, int(kept))
        assert rows.tolist() == expected[f"linspace_long.{last}.{kept}"].tolist()
