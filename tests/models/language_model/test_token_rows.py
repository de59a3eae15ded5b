"""Rows that are parameters of their own: the same numbers and gradients as whole matrices, and nothing of V rows."""

import pytest
import torch
from tiny_models import packed, random_example, tiny_model
from torch import Tensor

from vidtune.models.config import ADDED_TOKENS
from vidtune.models.language_model.token_rows import TokenRows
from vidtune.models.video_lm import VideoLM

IDS = {"<a>": 490, "<b>": 7, "<c>": 491}
FAMILIES = [("llama", {}), ("llama", {"tie_word_embeddings": True}), ("phi3", {"pad_token_id": 0})]


def batch(model: VideoLM):
    example, values = random_example(model, "image", 3)
    ids = [490, 7, 12, 491, 7]
    example.input_ids[-5:], example.labels[-5:] = ids, ids
    return packed([(example, values), random_example(model, "", 4)])


def with_rows(model: VideoLM, predicted: list[int]) -> TokenRows:
    model.requires_grad_(False)
    rows = TokenRows(model.language_model, list(IDS.values()), predicted)
    model.language_model.add_module(ADDED_TOKENS.rpartition(".")[2], rows)
    return rows


def gradients(model: VideoLM) -> dict[str, Tensor]:
    model.loss_sum(batch(model)).backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize(("family", "sizes"), FAMILIES, ids=["untied", "tied", "phi3"])
def test_rows_learn_what_the_whole_matrix_would_learn_there(family, sizes):
    whole, split = tiny_model(family, **sizes), tiny_model(family, **sizes)
    predicted = [7, 491]
    rows = with_rows(split, predicted)
    torch.testing.assert_close(split.loss_sum(batch(split)), whole.loss_sum(batch(whole)))
    learned, wanted = gradients(split), gradients(whole)
    ordered = sorted(IDS.values())
    embedding = wanted["language_model.model.embed_tokens.weight"]
    torch.testing.assert_close(learned[f"{ADDED_TOKENS}.input"], embedding[ordered], atol=1e-5, rtol=1e-4)
    if not rows.tied:
        torch.testing.assert_close(
            learned[f"{ADDED_TOKENS}.output"], wanted["language_model.lm_head.weight"][predicted], atol=1e-5, rtol=1e-4
        )
    assert learned.keys() == {f"{ADDED_TOKENS}.input"} | ({f"{ADDED_TOKENS}.output"} if not rows.tied else set())


@pytest.mark.parametrize("sizes", [{}, {"tie_word_embeddings": True}], ids=["untied", "tied"])
def test_changed_rows_compute_what_the_matrix_with_these_rows_computes(sizes):
    split, whole = tiny_model(**sizes), tiny_model(**sizes)
    rows = with_rows(split, [7])
    with torch.no_grad():
        for ids, values in ((rows.input_ids, rows.input), (rows.output_ids, rows.input if rows.tied else rows.output)):
            values.add_(torch.randn(values.shape, generator=torch.Generator().manual_seed(5)))
            matrix = whole.get_input_embeddings() if values is rows.input else whole.get_output_embeddings()
            matrix.weight[ids] = values
            if rows.tied:
                break
    torch.testing.assert_close(split.loss_sum(batch(split)), whole.loss_sum(batch(whole)), atol=1e-4, rtol=1e-5)
    ids = batch(whole).input_ids.clamp(max=499)
    torch.testing.assert_close(split(ids).logits, whole(ids).logits, atol=1e-5, rtol=1e-4)


def test_no_gradient_has_a_row_for_every_token():
    model = tiny_model()
    with_rows(model, [7])
    known = {weight.data_ptr() for weight in model.parameters()}
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            tensors = [one for one in torch.utils._pytree.tree_leaves(found) if isinstance(one, Tensor)]
            sizes.extend(len(one) for one in tensors if one.ndim == 2 and one.data_ptr() not in known)
            return found

    loss = model.loss_sum(batch(model))
    with Watch():
        loss.backward()
    assert sizes and 500 not in sizes


def test_a_pack_without_these_tokens_gives_them_a_gradient_of_zeros():
    model = tiny_model()
    rows = with_rows(model, [])
    model.loss_sum(packed([random_example(model, "", 4)])).backward()
    assert rows.input.grad is not None and not rows.input.grad.any()


class ScaledEmbedding(torch.nn.Embedding):
    embed_scale = 3.0

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * self.embed_scale


def test_an_embedding_that_scales_its_rows_scales_these_too():
    model = tiny_model()
    scaled = ScaledEmbedding(500, 32)
    model.set_input_embeddings(scaled)
    ids = torch.tensor([[490, 12, 7]])
    before = scaled(ids)
    with_rows(model, [])
    torch.testing.assert_close(scaled(ids), before)


def test_under_autocast_frozen_parts_keep_their_dtype():
    model = tiny_model().bfloat16()
    rows = with_rows(model, [7])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.embed(torch.tensor([[490, 12]])).dtype == torch.bfloat16
        model.loss_sum(batch(model)).backward()
    assert rows.input.dtype == rows.input.grad.dtype == rows.output.grad.dtype == torch.float32
