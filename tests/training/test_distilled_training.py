"""Distillation in training: what is minimised does not depend on packs or ranks, and the teacher stays outside."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from launched import Launcher, largest_difference, log_lines, printed, with_settings
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from training_world import COLOURS, LANGUAGE_MODEL, conversation, write_video

from vidtune.checkpoints.load import load_checkpoint
from vidtune.errors import UserError
from vidtune.media.pool import MediaPool
from vidtune.planning.randomness import random_seed
from vidtune.recipe.types import Recipe
from vidtune.training.estimates.flops import StepFlops
from vidtune.training.forward import PackForward
from vidtune.training.inspection.dry_run import forecast, rank_memory
from vidtune.training.packs.loading import PackLoader
from vidtune.training.packs.pack import LoadedPack
from vidtune.training.run import train_stages as train
from vidtune.training.setup.stage import StageSetup, set_up
from vidtune.training.signals import TrainingInterrupted

STAB = {"hidden_size": 16, "image_size": 16, "patch_size": 2, "clip_heads": 2, "frame_heads": 4, "dropout": 0.0}
TEACHER = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 2,
    "num_frames": 8,
    "temporal_attention": True,
}
EVERYTHING = {"towers": 1e-3, "connectors": 1e-3, "alignments": 1e-2, "language_model": 1e-3}
WIDTHS = {"wide": (32, 64, 6), "tall": (64, 32, 3), "square": (32, 32, 12)}

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def distilled(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeRecipe:
    """Recipe of one stage with a teacher, over clips of several shapes and one sample of text."""
    media = tmp_path_factory.mktemp("shapes")
    samples: list[dict[str, Any]] = [conversation("Say hello.", "hello.")]
    for shape, (height, width, frames) in WIDTHS.items():
        for colour, value in COLOURS.items():
            file = f"{shape}-{colour}.mp4"
            write_video(media / file, value, frames, height, width)
            samples.append(conversation("<video>\nWhat moves?", f"a {colour} box.", video=file))
    annotations = media / "train.json"
    annotations.write_text(json.dumps(samples))

    def make(teacher: Any = TEACHER, weight: float = 1.0, **changes: Any) -> Recipe:
        stage = {
            "name": "align",
            "data": [{"annotations": str(annotations), "media": str(media)}],
            "train": EVERYTHING,
            "global_batch_size": 6,
            "max_tokens_per_batch": 420,
            "max_steps": 4,
            "workers": 0,
            "log_every": 1,
            **changes,
        }
        return Recipe.model_validate(
            {
                "system": "video_panda",
                "language_model": {**LANGUAGE_MODEL, "num_hidden_layers": 4},
                "tokenizer": str(tokenizer),
                "towers": {"video": STAB},
                "distillation": {"video": {"teacher": teacher, "weight": weight}},
                "stages": [stage],
            }
        )

    return make


def losses(out: Path) -> list[float]:
    return [line["losses"]["alignments.video"] for line in log_lines(out, "align")]


def assert_equal_runs(one: Path, other: Path, tolerance: float = 2e-6) -> None:
    assert largest_difference(one / "align/final", other / "align/final") <= tolerance
    for a, b in zip(log_lines(one, "align"), log_lines(other, "align"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["losses"] == pytest.approx(b["losses"], rel=1e-5)


def packs_of(setup: StageSetup, step: int) -> list[LoadedPack]:
    with MediaPool(0, None) as pool:
        loader = PackLoader(
            setup.plan,
            setup.example,
            setup.processor.preprocessing,
            pool,
            teachers=setup.teachers.preprocessing,
        )
        return [pack for pack in loader if pack.step == step]


@pytest.fixture(scope="module")
def alone(distilled: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    out = tmp_path_factory.mktemp("distilled") / "out"
    train(distilled(), out, progress=False)
    return out


def test_gradients_are_those_of_mean_cross_entropy_plus_weighted_mean_alignment(
    distilled: MakeRecipe, tmp_path: Path
) -> None:
    setup = set_up(distilled(weight=0.7), 0, tmp_path)
    packs = packs_of(setup, 0)
    assert len(packs) > 1 and sum(pack.num_supervised for pack in packs) == setup.plan.supervised(0)
    net, teachers = PackForward(setup.model, "float32"), setup.teachers
    factors, tokens = teachers.factors(setup.plan, 0), setup.plan.supervised(0)
    aligned = frames = 0
    for pack in packs:
        assert pack.batch is not None
        found = net(teachers.teach(pack.batch), factors)
        (found.total / tokens).backward()
        aligned, frames = aligned + float(found.terms[1]), frames + found.frames[0]
    ours = {name: p.grad.clone() for name, p in setup.model.named_parameters() if p.grad is not None}
    assert frames == setup.plan.frames(0, "video") > 0
    setup.model.zero_grad(set_to_none=True)
    total = torch.zeros(())
    for pack in packs:
        text, terms = setup.model.loss_terms(teachers.teach(pack.batch))
        total = total + text / tokens + 0.7 * terms["video"][0] / frames
    total.backward()
    for name, parameter in setup.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, atol=1e-6, rtol=1e-4, msg=name)
    assert ours["alignments.video.input_proj.weight"].any()


def test_pack_size_does_not_matter_for_weights_losses_or_running_statistics(
    distilled: MakeRecipe, alone: Path, tmp_path: Path
) -> None:
    train(distilled(max_tokens_per_batch=4000), tmp_path / "out", progress=False)
    assert_equal_runs(alone, tmp_path / "out")
    norm = load_checkpoint(alone / "align/final").model.towers["video"].local_encoding.norm
    setup = set_up(distilled(), 0, tmp_path)
    samples = [index for step in range(4) for pack in setup.plan.packs(step) for index in pack]
    assert int(norm.num_batches_tracked) == sum(len(setup.data.table[index].media) for index in samples)
    assert norm.running_mean.any()


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp2", marks=pytest.mark.whole)])
def test_two_ranks_equal_one_process_with_running_statistics(
    distilled: MakeRecipe, alone: Path, launcher: Launcher, tmp_path: Path, parallel: str
) -> None:
    recipe = with_settings(distilled(), parallel=parallel)
    assert launcher.run(recipe, tmp_path / "out", 2) == [0, 0], printed(tmp_path / "out")
    assert_equal_runs(alone, tmp_path / "out")


@pytest.mark.parametrize("parallel", ["none", pytest.param("fsdp2", marks=pytest.mark.whole)])
def test_stopped_after_every_step_and_resumed_is_bit_for_bit_never_stopped(
    distilled: MakeRecipe, alone: Path, launcher: Launcher, tmp_path: Path, parallel: str
) -> None:
    recipe = distilled() if parallel == "none" else with_settings(distilled(), parallel=parallel)
    ranks = 1 if parallel == "none" else 2
    reference, out = alone, tmp_path / "out"
    if ranks == 2:
        reference = tmp_path / "reference"
        assert launcher.run(recipe, reference, ranks) == [0, 0]
    codes = launcher.run(recipe, out, ranks, arguments={"stop_after": 1}, again=True)
    assert codes == [0] * ranks, printed(out)
    assert largest_difference(reference / "align/final", out / "align/final") == 0
    assert losses(reference) == losses(out)


def test_the_teacher_is_in_no_result(distilled: MakeRecipe, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(TrainingInterrupted):
        train(distilled(), out, stop_after=2, progress=False)
    saved = torch.distributed.checkpoint.FileSystemReader(out / "align/checkpoint-2").read_metadata()
    names = list(saved.state_dict_metadata)
    assert any("local_encoding.norm.running_var" in name for name in names)
    assert not any("teacher" in name for name in names)
    checkpoint = load_checkpoint(alone / "align/final")
    assert not any("teacher" in name for name in checkpoint.model.state_dict())
    assert not checkpoint.report.missing


@pytest.mark.whole
def test_alignment_loss_falls(distilled: MakeRecipe, tmp_path: Path) -> None:
    train(distilled(max_steps=25, global_batch_size=4, warmup=0.0), tmp_path / "out", progress=False)
    found = losses(tmp_path / "out")
    assert sum(found[-5:]) < 0.6 * sum(found[:5])


def test_features_that_are_given_need_no_teacher(distilled: MakeRecipe, tmp_path: Path) -> None:
    setup = set_up(distilled(), 0, tmp_path)
    batch = packs_of(setup, 0)[0].batch
    assert batch is not None
    taught = setup.teachers.teach(batch)
    given = taught
    for tower in setup.teachers.towers.values():
        tower.forward = None  # type: ignore[assignment]
    net, factors = PackForward(setup.model, "float32"), setup.teachers.factors(setup.plan, 0)
    torch.manual_seed(random_seed(0))
    assert torch.equal(net(setup.teachers.teach(given), factors).terms, net(taught, factors).terms)


def test_failed_file_leaves_the_teacher_with_the_clips_that_are_left(distilled: MakeRecipe, tmp_path: Path) -> None:
    setup = set_up(distilled(max_tokens_per_batch=4000), 0, tmp_path)
    pack = packs_of(setup, 0)[0]
    assert pack.batch is not None
    clips = [slot.ref.path for example in pack.examples for slot in example.media]
    left = pack.without({clips[1]: (range(9),)}).batch
    assert left is not None
    before, after = pack.batch.media["video"], left.media["video"]
    assert len(after) == len(before) - 1
    for place, old in enumerate([0, *range(2, len(before))]):
        assert after[place].teacher is not None and after[place] is before[old]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 4}, "it sees 4 frames where its student sees 8"),
        ({"patch_size": 4}, r"its 2 x 2 patches do not divide into the student's 4 x 4 cells"),
    ],
)
def test_teacher_that_cannot_see_what_the_student_sees_is_refused(
    distilled: MakeRecipe, tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError, match=f"distillation.video.teacher: {message}"):
        set_up(distilled({**TEACHER, **changes}), 0, tmp_path)


@pytest.mark.whole
def test_bfloat16_on_sharded_ranks(distilled: MakeRecipe, launcher: Launcher, tmp_path: Path) -> None:
    recipe = distilled(precision="bfloat16", gradient_checkpointing=True)
    train(recipe, tmp_path / "alone", progress=False)
    assert launcher.run(with_settings(recipe, parallel="fsdp2"), tmp_path / "out", 2) == [0, 0], printed(
        tmp_path / "out"
    )
    for a, b in zip(log_lines(tmp_path / "alone", "align"), log_lines(tmp_path / "out", "align"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=5e-3)
        assert a["losses"] == pytest.approx(b["losses"], rel=2e-2)


def test_tower_of_a_trained_model_can_teach(make_recipe: MakeRecipe, distilled: MakeRecipe, tmp_path: Path) -> None:
    changes = {"image": {"patch_size": 7, "image_size": 28}, "video": {"patch_size": 7, "num_frames": 8}}
    recipe = make_recipe(max_steps=1, workers=0)
    towers = {name: {**recipe.towers[name], **sizes} for name, sizes in changes.items()}
    final = train(recipe.model_copy(update={"towers": towers}), tmp_path / "first", progress=False)
    setup = set_up(distilled(str(final)), 0, tmp_path)
    teacher = setup.teachers.towers["video"]
    trained = load_checkpoint(final).model.towers["video"]
    assert trained.config.keep_class_token and not teacher.config.keep_class_token
    for name, tensor in trained.state_dict().items():
        assert torch.equal(teacher.tower.state_dict()[name], tensor)
    with pytest.raises(UserError, match="cannot teach"):
        set_up(distilled({"type": "stab", "hidden_size": 16}), 0, tmp_path)


@pytest.mark.whole
def test_flops_of_teacher_and_head_are_those_of_a_real_step(distilled: MakeRecipe, tmp_path: Path) -> None:
    setup = set_up(distilled(), 0, tmp_path)
    [batch, *_] = [pack.batch for pack in packs_of(setup, 0) if pack.batch is not None and pack.batch.media]
    net, teachers = PackForward(setup.model, "float32"), setup.teachers
    addmm = {torch.ops.aten.addmm_: lambda total, a, b, *rest, **named: 2 * a[0] * a[1] * b[1]}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=addmm) as counter:
        net(teachers.teach(batch), {"video": 1.0}).total.backward()
    squares = sum((end - begin) ** 2 for begin, end in pairwise(batch.cu_seqlens))
    items, tokens = {"video": len(batch.media["video"])}, (batch.num_tokens, squares)
    taught = {stream: tower.config for stream, tower in teachers.towers.items()}
    with_teacher = StepFlops.of_stage(setup.model.config, setup.trained, taught)
    alone = StepFlops.of_stage(setup.model.config, setup.trained)
    real = counter.get_total_flops()
    # Items count as the largest there can be; this clip is no full square.
    found = with_teacher.of(*tokens, items, batch.num_supervised)
    assert alone.of(*tokens, items, batch.num_supervised) < real < found
    assert found == pytest.approx(real, rel=0.02)


@pytest.mark.whole
def test_memory_of_a_distilled_stage_holds_the_teacher(distilled: MakeRecipe, tmp_path: Path) -> None:
    recipe = distilled()
    [planned] = forecast(recipe, tmp_path)
    setup = set_up(recipe, 0, tmp_path)
    teacher = sum(weight.numel() for weight in setup.teachers.towers["video"].tower.parameters())
    plain = recipe.model_copy(update={"distillation": {}})
    alone = rank_memory(plain, setup.model.config, planned)
    assert planned.memory is not None and alone is not None
    assert planned.memory.weights - alone.weights == pytest.approx(4 * teacher, rel=0.01)
    assert planned.memory.activations > alone.activations
