"""Distillation: independent of packing and truncation, for any tower that tells where its tokens stand."""

import pytest
import torch
from tiny_models import tiny_model
from tiny_stab import STAB, clips, tiny_stab_model

from vidtune.checkpoints.teachers import alignment_sizes, build_teacher, teacher_preprocessing
from vidtune.errors import UserError
from vidtune.models.distillation import AlignmentConfig, Teacher, teacher_tokens
from vidtune.models.towers.clip import ClipTowerConfig
from vidtune.models.towers.token_grid import TokenGrid
from vidtune.processing.batch import Batch, Item, Teaching
from vidtune.recipe.types import Recipe

TEACHER = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 12,
    "patch_size": 2,
    "num_frames": 8,
    "temporal_attention": True,
}


def make_batch(model, values, features, cut: int = 0) -> Batch:
    """One example: two words, a clip, three words; ``cut`` tokens of the clip left away."""
    tokens = model.config.num_tokens("video", tuple(values.shape)) - cut
    ids = torch.cat([torch.tensor([3, 4]), torch.full((tokens,), model.config.placeholder_ids["video"])])
    ids = torch.cat([ids, torch.tensor([5, 6, 7])])[None]
    return Batch(
        input_ids=ids,
        position_ids=torch.arange(ids.shape[1])[None],
        labels=ids.masked_fill(ids >= 500, -100),
        cu_seqlens=[0, ids.shape[1]],
        ids=["0"],
        media={"video": [Item(values, tokens, teacher=None if features is None else Teaching(features, done=True))]},
    )


def hidden_states(model, batch):
    return model.language_model(
        inputs_embeds=model.embed(batch.input_ids, batch.media),
        position_ids=batch.position_ids,
        cu_seqlens=batch.cu_seqlens,
        use_cache=False,
        output_hidden_states=True,
    ).hidden_states


@pytest.fixture
def model():
    return tiny_stab_model()


@pytest.fixture
def teacher():
    torch.manual_seed(3)
    return Teacher(ClipTowerConfig(**TEACHER), cell=2, color=(0.0, 0.0, 0.0))


def test_the_mean_is_over_real_frames(model, teacher):
    clip, picture = clips([(3, 5, 12, 24), (3, 5, 6, 12)])
    batch = make_batch(model, clip, teacher([picture])[0])
    total, count = model.alignment(hidden_states(model, batch), batch)["video"]
    assert count == 5
    assert 0.0 < float(total.detach()) < 10.0
    total.backward()
    assert all(parameter.grad.any() for parameter in model.alignments.parameters())
    assert model.towers["video"].patch_embedding.weight.grad.any()


def test_frames_that_are_not_all_in_the_prompt_do_not_count(model, teacher):
    clip, picture = clips([(3, 8, 12, 24), (3, 8, 6, 12)])
    frame = 1 + 3 * 7
    features = teacher([picture])[0]
    counts = {}
    for cut in (0, 1, 2, frame + 1, 8 * frame - 1):
        batch = make_batch(model, clip, features, cut)
        counts[cut] = model.alignment(hidden_states(model, batch), batch)["video"][1]
    # The last token of a frame is a split token, which is not aligned.
    assert counts == {0: 8, 1: 8, 2: 7, frame + 1: 7, 8 * frame - 1: 0}


def test_without_a_teacher_the_head_is_touched_with_zero(model):
    (clip,) = clips([(3, 8, 12, 24)])
    batch = make_batch(model, clip, None)
    total, count = model.alignment(hidden_states(model, batch), batch)["video"]
    total.backward()
    assert (float(total.detach()), count) == (0.0, 0)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.alignments.parameters())


def test_finer_teachers_are_averaged_and_others_refused():
    grid = TokenGrid(first=1, stride=3, height=1, width=2, top=1, left=0, side=2)
    features = torch.arange(16.0).view(16, 1)
    assert teacher_tokens(features, grid).flatten().tolist() == [(8 + 9 + 12 + 13) / 4, (10 + 11 + 14 + 15) / 4]
    assert teacher_tokens(features[:4], grid).flatten().tolist() == [2.0, 3.0]
    with pytest.raises(ValueError, match="9 teacher features per frame do not divide into a square of 2 x 2"):
        teacher_tokens(features[:9], grid)


def test_a_tower_of_square_frames_can_be_the_student():
    model = tiny_model()
    model.add_alignments({"image": {"input_size": 32, "output_size": 24, "layers": [2, 1, 0], "num_heads": 4}})
    shape = model.config.tower("image").input_shape()
    tokens = model.config.num_tokens("image", shape)
    ids = torch.tensor([[3, *[model.config.placeholder_ids["image"]] * tokens, 4]])
    features = torch.randn(1, tokens, 24)
    batch = Batch(
        ids,
        torch.arange(len(ids[0]))[None],
        ids,
        [0, len(ids[0])],
        ["0"],
        {"image": [Item(torch.randn(shape), tokens, teacher=Teaching(features, done=True))]},
    )
    total, count = model.alignment(hidden_states(model, batch), batch)["image"]
    assert count == 1 and float(total.detach()) > 0
    assert "alignments.image" in model.components()


def test_the_teacher_is_frozen_and_in_no_checkpoint(model, teacher):
    teacher.train()
    assert not teacher.training and not teacher.tower.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any("teacher" in name for name in model.state_dict())


def test_a_head_of_other_sizes_is_refused(model):
    with pytest.raises(UserError, match="brings a head of"):
        model.add_alignments({"video": {"input_size": 32, "output_size": 48, "layers": [4, 2, 0]}})
    with pytest.raises(ValueError, match="does not divide"):
        AlignmentConfig(input_size=32, output_size=20, layers=(1, 0))


def recipe(**distillation) -> Recipe:
    return Recipe.model_validate({"system": "video_panda", "language_model": "x", "distillation": distillation})


def test_a_recipe_names_teacher_and_layers(model):
    chosen = recipe(video={"teacher": TEACHER, "layers": [4, 3, 0]})
    model.config.alignments = {}
    assert alignment_sizes(chosen, model.config)["video"]["layers"] == [4, 3, 0]
    everywhere = alignment_sizes(recipe(video={"teacher": TEACHER}), model.config)["video"]
    assert everywhere == {"input_size": 32, "output_size": 24, "layers": [4, 0]}
    first, second = (build_teacher(chosen, "video", model.config) for _ in range(2))
    assert first.cell == 2 and torch.equal(first.tower.post_layernorm.weight, second.tower.post_layernorm.weight)
    assert torch.equal(first.tower.embeddings.class_embedding, second.tower.embeddings.class_embedding)


@pytest.mark.parametrize(
    ("distillation", "message"),
    [
        ({"vidoe": {"teacher": TEACHER}}, "distillation.vidoe: no such stream; did you mean 'video'"),
        ({"video": {"teacher": TEACHER, "layers": [5, 0]}}, "at least two of 0 to 4, not"),
        ({"video": {"teacher": {**TEACHER, "heads": 1}}}, "distillation.video.teacher: tower 'clip'"),
        ({"video": {"teacher": "/nowhere"}}, "/nowhere: no such file or folder"),
    ],
)
def test_what_is_wrong_with_a_distillation_is_named(distillation, message, model):
    with pytest.raises(UserError, match=message):
        alignment_sizes(recipe(**distillation), model.config)


def test_the_teacher_sees_the_same_frames_at_its_own_size(model):
    from vidtune.registry import SYSTEMS

    student = SYSTEMS["video_panda"].architecture.preprocessing(model.config)["video"]
    seen = teacher_preprocessing(student, ClipTowerConfig(**TEACHER))
    assert (student.size, student.cell) == (STAB["image_size"], 4)
    assert (seen.size, seen.cell, seen.num_frames) == (12, 2, 8)
    for height, width in ((720, 1280), (1280, 720), (480, 640), (333, 334)):
        assert [2 * length for length in seen.resized_size(height, width)] == list(student.resized_size(height, width))


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable")
def test_recomputed_activations_give_the_same_losses_and_gradients(teacher):
    clip, picture = clips([(3, 8, 12, 24), (3, 8, 6, 12)])
    gradients, values = [], []
    for recompute in (False, True):
        model = tiny_stab_model().train()
        if recompute:
            model.language_model.gradient_checkpointing_enable()
        batch = make_batch(model, clip, teacher([picture])[0])
        text, aligned = model.loss_terms(batch)
        total, count = aligned["video"]
        (text + total / count).backward()
        values.append([float(text.detach()), float(total.detach()), count])
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert values[0] == pytest.approx(values[1], abs=1e-5)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_a_head_that_does_not_train_costs_nothing_without_a_teacher(model):
    (clip,) = clips([(3, 8, 12, 24)])
    model.alignments.requires_grad_(False)
    text, aligned = model.loss_terms(make_batch(model, clip, None))
    assert not aligned
    assert torch.equal(text, model.loss_sum(make_batch(model, clip, None)))
