import pytest
import torch
from tiny_models import packed, random_example, tiny_model
from transformers import AutoModel, AutoModelForCausalLM

from vidtune.models.video_lm import VideoLM
from vidtune.processing.packing import StreamBatch


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("text_type", ["llama", "qwen2"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_equals_one_by_one(text_type, checkpointing):
    model = tiny_model(text_type).train()
    if checkpointing:
        model.language_model.gradient_checkpointing_enable()
    examples = [random_example(model, kind, seed) for seed, kind in enumerate(("video", "image", "", "video,image"))]
    loss = model.loss_sum(packed(examples))
    loss.backward()
    together = gradients(model)
    model.zero_grad(set_to_none=True)
    alone = sum(model.loss_sum(packed([example])) for example in examples)
    alone.backward()
    torch.testing.assert_close(loss, alone, atol=1e-5, rtol=1e-6)
    assert together.keys() == gradients(model).keys()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(together[name], gradient, atol=1e-5, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


def test_loss_on_supervised_positions_equals_the_plain_mean(model, mixture):
    for example in mixture:
        batch = packed([example])
        plain = model(batch.input_ids, labels=batch.labels, media=batch.media).loss
        torch.testing.assert_close(model.loss_sum(batch) / batch.num_supervised, plain)


def test_a_pack_without_labels_has_zero_loss_and_finite_gradients(model, mixture):
    batch = packed(mixture)
    batch.labels.fill_(-100)
    loss = model.loss_sum(batch)
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
    doubled = {"image": StreamBatch(torch.cat([batch.media["image"].values] * 2), [4, 4])}
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


def test_rotary_buffers_survive_loading(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = VideoLM.from_pretrained(tmp_path)
    expected = model.language_model.model.rotary_emb.inv_freq
    assert torch.equal(again.language_model.model.rotary_emb.inv_freq, expected)
