from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from tiny_models import packed, random_example, tiny_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModel, AutoModelForCausalLM

from vidtune.models.language_model.loss import CHUNK_BYTES, head_loss_sum
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Item


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def model_in_training(text_type: str, variant: str, checkpointing: bool) -> VideoLM:
    model = tiny_model(text_type, tie_word_embeddings=variant == "tied").train()
    if variant == "adapted":
        model.language_model.requires_grad_(False)
        targets = ["q_proj", "down_proj", "lm_head"]
        inject_adapter_in_model(LoraConfig(r=2, target_modules=targets, init_lora_weights=False), model.language_model)
    if checkpointing:
        model.language_model.gradient_checkpointing_enable()
    return model


def packed_and_alone(model: VideoLM, chunk_bytes: int, monkeypatch) -> tuple[list[torch.Tensor], list[dict]]:
    """Loss and all gradients of a mixture as one pack in chunks of logits, and sample by sample at once."""
    kinds = ("video", "image", "", "video,image")
    examples = [random_example(model, kind, seed) for seed, kind in enumerate(kinds)]
    losses, found = [], []
    for packs, size in (([examples], chunk_bytes), ([[example] for example in examples], CHUNK_BYTES)):
        monkeypatch.setattr("vidtune.models.video_lm.head_loss_sum", partial(head_loss_sum, chunk_bytes=size))
        model.zero_grad(set_to_none=True)
        loss = sum(model.loss_sum(packed(pack)) for pack in packs)
        loss.backward()
        losses.append(loss)
        found.append(gradients(model))
    return losses, found


@pytest.mark.parametrize("text_type", ["llama", "qwen2"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("variant", ["untied", "tied", "adapted"])
def test_packed_equals_one_by_one(text_type, checkpointing, variant, monkeypatch):
    model = model_in_training(text_type, variant, checkpointing)
    losses, (together, alone) = packed_and_alone(model, 4 * 500 * 3, monkeypatch)
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-6)
    assert together.keys() == alone.keys()
    assert {name.split(".")[0] for name in alone} == {"towers", "connectors", "language_model"}
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, atol=1e-5, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("variant", ["tied", "adapted"])
def test_packed_equals_one_by_one_under_bfloat16_autocast(variant, monkeypatch):
    model = model_in_training("qwen2", variant, checkpointing=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, (together, alone) = packed_and_alone(model, 4 * 500 * 3, monkeypatch)
    torch.testing.assert_close(*losses, rtol=5e-3, atol=0)
    whole, difference = (
        torch.cat([gradient.flatten() for gradient in parts]).norm()
        for parts in (alone.values(), [together[name] - gradient for name, gradient in alone.items()])
    )
    assert difference < 0.02 * whole


@pytest.mark.parametrize("variant", ["untied", "tied", "adapted"])
def test_loss_of_a_sharded_model_equals_that_of_the_plain_one(variant):
    """FSDP2 as training wraps it: layers, then the root, inside whose forward the head's weight is whole."""

    class Step(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, batch):
            return self.model.loss_sum(batch)

    model = model_in_training("qwen2", variant, checkpointing=False)
    batch = packed([random_example(model, kind, seed) for seed, kind in enumerate(("video", "image", ""))])
    expected = model.loss_sum(batch)
    expected.backward()
    plain = gradients(model)
    model.zero_grad(set_to_none=True)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for layer in model.language_model.model.layers:
            fully_shard(layer, mesh=mesh)
        step = fully_shard(Step(model), mesh=mesh)
        loss = step(batch)
        loss.backward()
        sharded = {name: gradient.full_tensor() for name, gradient in gradients(model).items()}
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(loss, expected)
    assert sharded.keys() == plain.keys()
    torch.testing.assert_close(sharded, plain)


def test_loss_on_supervised_positions_equals_the_plain_mean(model, mixture):
    for example in mixture:
        batch = packed([example])
        plain = model(batch.input_ids, labels=batch.labels, media=batch.media).loss
        torch.testing.assert_close(model.loss_sum(batch) / batch.num_supervised, plain)


def test_a_pack_without_labels_has_zero_loss_and_finite_gradients(model, mixture):
    silent = [(replace(example, labels=np.full_like(example.labels, -100)), arrays) for example, arrays in mixture]
    loss = model.loss_sum(packed(silent))
    loss.backward()
    assert loss.item() == 0
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())


def test_every_trainable_part_has_a_gradient_whatever_the_batch_holds(model):
    model.loss_sum(packed([random_example(model, "", 0)])).backward()
    idle = ("post_layernorm", f"encoder.layers.{model.config.towers['video']['num_hidden_layers'] - 1}.")
    missing = [n for n, p in model.named_parameters() if p.grad is None and not any(part in n for part in idle)]
    assert missing == []
    assert model.towers["video"].embeddings.class_embedding.grad.abs().max() == 0


def test_frozen_towers_leave_no_graph(model, mixture):
    model.towers.requires_grad_(False)
    model.loss_sum(packed(mixture)).backward()
    assert all(p.grad is None for p in model.towers.parameters())
    assert all(p.grad is not None for p in model.connectors.parameters())


def test_placeholders_without_their_media_are_refused(model):
    batch = packed([random_example(model, "image", 0)])
    with pytest.raises(ValueError, match="4 placeholders of stream 'image' for 0 media tokens"):
        model.embed(batch.input_ids, {})
    doubled = {"image": batch.media["image"] * 2}
    with pytest.raises(ValueError, match="for 8 media tokens"):
        model.embed(batch.input_ids, doubled)


def test_generate_with_media_equals_generate_from_embeddings(model, mixture):
    for example in mixture:
        batch = packed([example])
        options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        embeds = model.embed(batch.input_ids, batch.media)
        mask = torch.ones_like(batch.input_ids)
        from_embeds = model.language_model.generate(inputs_embeds=embeds, attention_mask=mask, **options)
        whole = model.generate(batch.input_ids, attention_mask=mask, media=batch.media, **options)
        assert whole[0, batch.input_ids.shape[1] :].tolist() == from_embeds[0].tolist()


@pytest.mark.parametrize("tied", [False, True])
def test_save_and_load_is_identity(tied, tmp_path, mixture):
    model = tiny_model(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    batch = packed(mixture)
    with torch.no_grad():
        loss = model.loss_sum(batch)
    for loader in (VideoLM, AutoModel, AutoModelForCausalLM):
        again = loader.from_pretrained(tmp_path)
        assert again.config.streams == model.config.streams and again.config.towers == model.config.towers
        assert all(
            torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
        )
        with torch.no_grad():
            assert again.loss_sum(batch) == loss


def test_loaded_running_statistics_are_not_drawn_anew(model):
    norm = torch.nn.BatchNorm1d(4)
    for value in (*norm.parameters(), *norm.buffers()):
        value.data.fill_(7)
        value._is_hf_initialized = True  # as transformers marks what it loaded
    model._init_weights(norm)
    assert all((value == 7).all() for value in (*norm.parameters(), *norm.buffers()))


def test_rotary_buffers_survive_loading(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = VideoLM.from_pretrained(tmp_path)
    expected = model.language_model.model.rotary_emb.inv_freq
    assert torch.equal(again.language_model.model.rotary_emb.inv_freq, expected)


@pytest.mark.parametrize("stored", [(0, 1, 2), (1,), (0, 2), ()])
def test_stored_features_take_the_place_of_the_tower(stored, monkeypatch):
    model = tiny_model()
    values = torch.randn(3, *model.config.tower("video").input_shape())
    plain = [Item(value, tokens) for value, tokens in zip(values, (5, 32, 17), strict=True)]
    expected = [block.clone() for block in model.encode_items("video", plain)]
    features = [model.tower_features("video", value[None])[0] for value in values]
    mixed = [
        replace(item, values=features[place], encoded=True) if place in stored else item
        for place, item in enumerate(plain)
    ]
    ran = []
    tower = model.towers["video"].forward
    monkeypatch.setattr(model.towers["video"], "forward", lambda pixels: ran.append(len(pixels)) or tower(pixels))
    found = list(model.encode_items("video", mixed))
    assert sum(ran) == 3 - len(stored)
    for block, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(block, wanted, atol=1e-5, rtol=0)
