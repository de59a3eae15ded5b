"""A contrastive stage: packs, ranks and interruptions change nothing; what it cannot compare is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from launched import Launcher, largest_difference, printed, weights
from safetensors.torch import load_file
from training_world import COLOURS, conversation

from vidtune.checkpoints.load import load_checkpoint
from vidtune.checkpoints.parts.contrast import load_contrast
from vidtune.cli.main import run as run_command
from vidtune.errors import UserError
from vidtune.evaluation.evaluate import evaluate
from vidtune.machine.ranks.place import ProcessPlace
from vidtune.models.text_alignment.contrast import contrast_loss
from vidtune.models.towers.clip import ClipTowerConfig
from vidtune.processing.batch import Batch, pack
from vidtune.recipe.files import dump_recipe
from vidtune.recipe.types import Recipe
from vidtune.training.forward import PairForward
from vidtune.training.inspection.doctor import examine
from vidtune.training.inspection.dry_run import forecast
from vidtune.training.packs.transfer import Transfer
from vidtune.training.pair_step import NumberedBatch, PairStep
from vidtune.training.ranks.group import Ranks
from vidtune.training.ranks.parallel import ParallelForward
from vidtune.training.run import train_stages as train
from vidtune.training.setup.stage import StageSetup, set_up
from vidtune.training.step import fill_missing_gradients

TEXT = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT |= {"max_position_embeddings": 20, "projection_dim": 16}
TWO = {**conversation("<image>\n<image>\nWhich?", "both."), "image": ["red.png", "blue.png"]}
TRAIN = {"towers": 1e-3, "contrast": 1e-3}


def pairs() -> list[dict]:
    """Videos and images with a text of their own each."""
    videos = [conversation("<video>\nWhat moves?", f"a {c} box moves.", video=f"{c}.mp4") for c in COLOURS]
    return videos + [conversation("<image>\nWhich?", f"all of it is {c}.", image=f"{c}.png") for c in COLOURS]


@pytest.fixture(scope="module")
def comparing(make_recipe) -> Callable[..., Recipe]:
    def make(samples=None, contrast=None, **changes) -> Recipe:
        settings = {"objective": "contrastive", "contrast": {"text_tower": TEXT, **(contrast or {})}, "train": TRAIN}
        settings |= {"max_steps": 3, "global_batch_size": 6, "max_tokens_per_batch": 200}
        return make_recipe(samples or pairs(), **{**settings, **changes})

    return make


@pytest.fixture(scope="module")
def alone(comparing, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "out"
    train(comparing(), out, progress=False)
    return out


@pytest.fixture(scope="module")
def setup(comparing, tmp_path_factory) -> StageSetup:
    return set_up(comparing(), 0, tmp_path_factory.mktemp("setup"))


def batch(setup: StageSetup, indices: list[int]) -> Batch:
    how = {name: stream.preprocessing for name, stream in setup.processor.streams.items()}
    examples = [setup.example(index, 0) for index in indices]
    return pack(examples, [[how[s.stream].load(s.ref.path) for s in example.media] for example in examples])


def gradients(setup: StageSetup, packs: list[list[int]]) -> tuple[float, dict[str, torch.Tensor]]:
    ranks = Ranks(ProcessPlace(), torch.device("cpu"))
    forward = ParallelForward(PairForward(setup.model, "float32", setup.contrast), setup.stage, ranks)
    transfer = Transfer(ranks.device, setup.processor.preprocessing)
    forward.net.zero_grad(set_to_none=True)
    step = PairStep(forward, setup.contrast.config.loss, 0, ranks, transfer)
    losses = step.backward(0, [NumberedBatch(batch(setup, some), number) for number, some in enumerate(packs)])
    trained = {name: p for name, p in forward.net.named_parameters() if p.requires_grad}
    fill_missing_gradients(list(trained.values()))
    return sum(float(loss.total) for loss, _ in losses), {name: p.grad.clone() for name, p in trained.items()}


def test_packs_of_a_step_have_the_gradient_of_the_whole_step(setup: StageSetup) -> None:
    whole = batch(setup, [0, 1, 5, 2, 6])
    net = PairForward(setup.model, "float32", setup.contrast)
    net.zero_grad(set_to_none=True)
    found = net(whole.to_float(setup.processor.preprocessing))
    expected = contrast_loss(*found[:5])
    expected.backward()
    plain = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    for packs in ([[0, 1, 5, 2, 6]], [[0], [1, 5], [2, 6]], [[0], [1], [5], [2], [6]]):
        loss, packed = gradients(setup, packs)
        assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
        for name, gradient in plain.items():
            torch.testing.assert_close(packed[name], gradient, atol=2e-6, rtol=1e-3, msg=name)
    parts = {".".join(name.split(".")[:3]) for name, gradient in plain.items() if gradient.any()}
    assert {"model.towers.video", "model.towers.image", "contrast.projections.video"} < parts
    assert any(name.startswith("contrast.text_tower") for name in parts)


def test_everything_that_trains_is_in_the_result(setup: StageSetup, alone: Path) -> None:
    before = {name: value.clone() for name, value in setup.model.state_dict().items()}
    after = {name.partition(": ")[2]: value for name, value in weights(alone / "align/final").items()}
    changed = {
        name.split(".")[0] for name, value in after.items() if name in before and not torch.equal(value, before[name])
    }
    assert changed == {"towers"}
    contrast, captions = load_contrast(alone / "align/final")
    drawn = setup.contrast.state_dict()
    moved = {name.split(".")[0] for name, value in contrast.state_dict().items() if not torch.equal(value, drawn[name])}
    assert moved == {"text_tower", "projections", "temperature"}
    assert captions("a red box").tolist() == setup.captions("a red box").tolist()


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp2", marks=pytest.mark.whole)])
def test_two_ranks_equal_one_process(comparing, alone: Path, launcher: Launcher, tmp_path: Path, parallel: str) -> None:
    out = tmp_path / "out"
    assert launcher.run(comparing(parallel=parallel), out, 2) == [0, 0], printed(out)
    one, two = weights(alone / "align/final"), weights(out / "align/final")
    assert one.keys() == two.keys()
    for name, value in one.items():
        # The bias of a key has no gradient but rounding, which AdamW turns into a step.
        atol = 1e-3 if name.endswith("k_proj.bias") else 2e-6
        torch.testing.assert_close(two[name], value, atol=atol, rtol=0, msg=name)
    assert sum(name.endswith("logit_scale") for name in one) == 1


def test_stopped_and_resumed_is_bit_for_bit_never_stopped(comparing, alone: Path, launcher: Launcher, tmp_path) -> None:
    out = tmp_path / "out"
    assert launcher.run(comparing(), out, arguments={"stop_after": 1}, again=True) == [0], printed(out)
    assert largest_difference(alone / "align/final", out / "align/final") == 0


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_towers_learn_to_find_texts_of_a_frozen_text_tower(comparing, tmp_path: Path, loss: str) -> None:
    train_towers = {"towers": 3e-3, "contrast.video": 3e-3, "contrast.image": 3e-3, "contrast.temperature": 1e-2}
    recipe = comparing(contrast={"loss": loss}, train=train_towers, max_steps=20, warmup=0.0, global_batch_size=8)
    train(recipe, tmp_path / "out", progress=False)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "out/align/log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"global_batch_size": 1}, r"global_batch_size 1.*at least 2"),
        ({"train": {"connectors": 1e-3}}, r"objective: contrastive trains towers and contrast.*train\.connectors"),
        ({"contrast": {"pool": {"vidoe": "mean"}}}, r"no stream 'vidoe'; did you mean 'video'"),
        ({"contrast": {"text_tower": {"hiden_size": 3}}}, r"no 'hiden_size'; did you mean 'hidden_size'"),
        ({"contrast": {"text_tower": None}}, r"no text_tower, and what the stage starts from holds none"),
        ({"contrast": {"bias": 1.0}}, r"bias: loss 'softmax' has none"),
        ({"train": {"towers": 1e-3, "contrast.text_tower": {"learning_rate": 1e-3, "lora": {}}}}, r"only towers take"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_compared_is_refused_in_one_line(comparing, tmp_path: Path, changes, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        train(comparing(**changes), tmp_path / "out", progress=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ([*pairs(), conversation("Hello?", "hi.")], r"train:8: objective: contrastive needs media"),
        ([*pairs(), conversation("<video>\nWhat?", " ", video="red.mp4")], r"train:8: has no text"),
        ([*pairs(), TWO], r"train:8: has 2 media of stream 'image'; a pair has one"),
        (
            [conversation("<video>\nWhat?", "it.", video=f"{c}.mp4") for c in COLOURS],
            r"all 4 samples have one text, 'it\.'",
        ),
        ([], r"stream 'video': a tower of type 'clip' has no pooled output; set contrast\.pool\.video: mean"),
        (None, r"global_batch_size 1.*at least 2"),
    ],
    ids=["no medium", "no text", "two media", "one text", "no pooled output", "one pair"],
)
def test_training_dry_run_and_data_check_refuse_the_same_data_in_one_line(
    comparing, tmp_path: Path, samples, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = comparing(samples, **({"global_batch_size": 1} if samples is None else {}))
    if samples == []:
        monkeypatch.delattr(ClipTowerConfig, "pooled_size")
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    out = ["--out", str(tmp_path / "out")]
    for words in (["train", str(path), "--dry-run"], ["data", "check", str(path)], ["data", "check", str(path), *out]):
        assert run_command(words) == 2
        assert re.search(said, one_line(capsys)), words
    with pytest.raises(UserError, match=said):  # what the check recorded is not left out in silence
        train(recipe, tmp_path / "out", progress=False)
    assert not (tmp_path / "out/align/log.jsonl").exists()


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_an_aligned_tower_is_the_same_in_a_later_stage_and_read_from_the_result(
    comparing, make_recipe, alone: Path, tmp_path: Path
) -> None:
    later = {"name": "connect", "train": {"connectors": 1e-2}, "max_steps": 1}
    before, after = comparing(), make_recipe(pairs(), stages=[later])
    both = before.model_copy(update={"stages": (*before.stages, *after.stages)})
    places = dict.fromkeys(("image", "video"), str(alone / "align/final"))
    found = []
    for number, recipe, out in ((1, both, alone), (0, after.model_copy(update={"towers": places}), tmp_path)):
        found.append(set_up(recipe, number, out).model.state_dict())
    in_turn, read = ({name: value for name, value in state.items() if name.startswith("towers.")} for state in found)
    for name, value in load_file(alone / "align/final/model.safetensors").items():
        if name.startswith("towers."):
            assert torch.equal(in_turn.pop(name), value) and torch.equal(read.pop(name), value)
    assert not in_turn and not read


def test_features_of_an_aligned_tower_are_one_collection_by_stage_and_by_result(
    comparing, make_recipe, alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = {"name": "connect", "train": {"connectors": 1e-2}, "max_steps": 1}
    before, after = comparing(), make_recipe(pairs(), stages=[later])
    both = before.model_copy(update={"stages": (*before.stages, *after.stages)})
    by_result = after.model_copy(update={"towers": dict.fromkeys(("image", "video"), str(alone / "align/final"))})
    path, options = tmp_path / "recipe.yaml", ["--store", str(tmp_path / "store"), "--workers", "0"]
    for recipe, more, said in (
        (both, ["--stage", "connect", "--out", str(alone)], f"video: {len(COLOURS)} stored, 0 found"),
        (by_result, [], f"video: 0 stored, {len(COLOURS)} found"),
    ):
        path.write_text(dump_recipe(recipe))
        assert run_command(["features", "extract", str(path), *options, *more]) == 0
        assert said in capsys.readouterr().out


def test_the_doctor_measures_a_contrastive_step(comparing) -> None:
    found = examine(comparing(workers=0), steps=1)
    assert found.samples == 2 and found.parts["backward"] > 0


def test_its_vectors_are_evaluated_by_retrieval(setup: StageSetup, alone: Path, media: Path, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    lines = [{"video": f"{c}.mp4", "caption": f"a {c} box moves."} for c in COLOURS]
    file.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {**lines[0], "caption": "a box."}]))
    score = evaluate(alone / "align/final", str(file), data=media, out=tmp_path / "eval", progress=False)
    found = {value.name: value for value in score.overall.values}
    contrast, captions = load_contrast(alone / "align/final")
    model = load_checkpoint(alone / "align/final").model
    whole = batch(setup, [0, 1, 2, 3]).to_float(setup.processor.preprocessing)
    with torch.no_grad():
        vectors = contrast.media(model.eval(), "video", whole.media["video"])
        texts = contrast.texts(
            [torch.from_numpy(captions(text)) for text in [*(f"a {c} box moves." for c in COLOURS), "a box."]]
        )
    similar = texts @ vectors.t()
    right = (similar.argmax(1) == torch.tensor([0, 1, 2, 3, 0])).float().mean()
    assert found["R@1, text to video"].official.value == pytest.approx(100 * float(right))
    right = [int(similar[:, 0].argmax()) in (0, 4), *(int(similar[:, n].argmax()) == n for n in (1, 2, 3))]
    assert found["R@1, video to text"].official.value == pytest.approx(100 * sum(right) / 4)
    assert found["R@5, text to video"].official.value == 100 and "median rank, video to text" in found
    with pytest.raises(UserError, match="holds no folder contrast"):
        (tmp_path / "plain").mkdir()
        for path in (alone / "align/final").iterdir():
            if path.is_file():
                (tmp_path / "plain" / path.name).symlink_to(path)
        evaluate(tmp_path / "plain", str(file), data=media, out=tmp_path / "none", progress=False)


def test_a_second_contrastive_stage_goes_on_with_the_text_tower(comparing, alone: Path) -> None:
    first = comparing()
    second = first.stages[0].model_copy(update={"name": "again", "contrast": None})
    setup = set_up(first.model_copy(update={"stages": (*first.stages, second)}), 1, alone)
    trained, _ = load_contrast(alone / "align/final")
    for name, value in trained.state_dict().items():
        assert torch.equal(setup.contrast.state_dict()[name], value), name


def test_the_dry_run_counts_what_the_towers_are_compared_with(comparing, setup: StageSetup) -> None:
    [planned], [less] = (list(forecast(comparing(**changes))) for changes in ({}, {"train": {"towers": 1e-3}}))
    beside = sum(parameter.numel() for parameter in setup.contrast.parameters())
    assert planned.memory.optimizer - less.memory.optimizer == 8 * beside
    assert planned.memory.activations > less.memory.activations > 0
