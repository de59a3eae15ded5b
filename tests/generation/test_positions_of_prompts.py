"""A rule of three axes through packs, shared prefixes, their questions and plain decoding equals a plain loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from three_axes import by_rows, system_by_rows, three_axis_language_model
from tiny_language_models import CONFIGS, byte_tokenizer, sharpen
from tiny_models import TOWER

from vidtune.checkpoints.fit_processor import build_processor
from vidtune.data.sample import MediaRef, Sample, Turn
from vidtune.generation.engine import AnswerEngine
from vidtune.generation.settings import GenerationSettings, Request
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import pack
from vidtune.registry import SYSTEMS

NEW_TOKENS = 6
QUESTIONS = {
    "media first": "<image><video>\nWho is it?",
    "media first too": "<image><video>\nWhat?",
    "between": "<image> Is it in <video>?",
    "last": "What is shown?\n<image><video>",
    "last too": "Why?\n<image><video>",
}


@pytest.fixture(scope="module")
def parts():
    with system_by_rows("video_llava") as name:
        torch.manual_seed(0)
        towers = {"image": TOWER, "video": {**TOWER, "num_frames": 2}}
        config = SYSTEMS[name].architecture.build_config(CONFIGS["llama"], towers, {})
        config.system = name
        model = VideoLM(config)
        sharpen(model)
        model.language_model = three_axis_language_model(config.text_config)
        yield model.eval(), build_processor(config, byte_tokenizer())


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    (folder / "clip").mkdir()
    for name in ("whole.png", "clip/0.png", "clip/1.png"):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / name)
    return MediaRef("image", str(folder / "whole.png")), MediaRef("video", str(folder / "clip"))


def arrays(processor, media):
    return [processor.preprocessing[ref.stream].load(ref.path) for ref in media]


def plain_loop(parts, example, media):
    """Greedy tokens of a prompt, the whole of which is run again for every token, without a cache."""
    model, processor = parts
    batch = pack([example], [arrays(processor, media)])
    values, following = by_rows(example.spans())
    embeds = model.embed(batch.input_ids, batch.media, batch.places)
    tokens = []
    while len(tokens) < NEW_TOKENS:
        logits = model.language_model(
            inputs_embeds=embeds, position_ids=torch.from_numpy(values)[:, None], use_cache=False
        ).logits
        tokens.append(int(logits[0, -1].argmax()))
        embeds = torch.cat([embeds, model.get_input_embeddings()(torch.tensor([tokens[-1:]]))], 1)
        values = np.concatenate([values, np.full((3, 1), following)], 1)
        following += 1
        if tokens[-1] == processor.tokenizer.eos_token_id:
            break
    return tuple(tokens)


@pytest.mark.parametrize("share_prefix", [True, False])
@torch.no_grad()
def test_answers_equal_a_plain_loop(parts, media, share_prefix):
    _, processor = parts
    requests = [Request(name, media, question) for name, question in QUESTIONS.items()]
    settings = GenerationSettings(max_new_tokens=NEW_TOKENS)
    with AnswerEngine(*parts, settings, prompt="llava_v1", workers=0, share_prefix=share_prefix) as engine:
        found = {answer.id: answer.token_ids for answer in engine.answer(requests)}
    assert (engine.stats.encodings, engine.stats.prefills) == ((2, 2) if share_prefix else (10, 5))
    examples = {request.id: processor.question_example(request.question, media, "llava_v1") for request in requests}
    assert found == {name: plain_loop(parts, example, media) for name, example in examples.items()}
    assert len(set(found.values())) >= 4


@torch.no_grad()
def test_generate_of_transformers_equals_a_plain_loop(parts, media):
    model, processor = parts
    image, video = media
    texts = ["Who, and where, is <image><video>?", "<image><video> Who?"]
    inputs = processor(texts, images=[image.path] * 2, videos=[video.path] * 2, prompt="llava_v1")
    assert inputs["position_ids"].shape == (3, *inputs["input_ids"].shape)
    ids = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=257, pad_token_id=0)
    for text, row in zip(texts, ids[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
        expected = plain_loop(parts, processor.question_example(text, media, "llava_v1"), media)
        assert tuple(row[: len(expected)]) == expected


def test_packs_equal_one_by_one(parts, media):
    model, processor = parts
    questions = [("<image><video>\nWho?", media, 1000), ("<video>\nWhat is it?", media[1:], 175), ("Why?", (), 1000)]
    examples, files = [], []
    for number, (question, refs, limit) in enumerate(questions):
        sample = Sample(str(number), (Turn("user", question), Turn("assistant", "A man, I think.")), tuple(refs))
        examples.append(processor.example(sample, "llava_v1", max_expanded_length=limit))
        files.append(arrays(processor, refs))
    together = pack(examples, files)
    assert together.position_ids.shape == (3, 1, together.num_tokens)
    assert (together.position_ids[:, 0, together.cu_seqlens[:-1]] == 0).all()
    alone = [pack([example], [loaded]) for example, loaded in zip(examples, files, strict=True)]
    torch.testing.assert_close(model.loss_sum(together), sum(map(model.loss_sum, alone)))
    lines = [positions_in_line(batch) for batch in alone]
    assert not torch.allclose(sum(map(model.loss_sum, lines)), model.loss_sum(together), rtol=1e-3)


def positions_in_line(batch):
    return replace(batch, position_ids=torch.arange(batch.num_tokens).expand(3, 1, -1))
