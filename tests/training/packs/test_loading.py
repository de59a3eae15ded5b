"""Loading: a rank gets its own packs, as many as every other, and nobody waits twice for a file that failed."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from training_world import COLOURS, conversation, mixed_samples

from vidtune.errors import ItemError
from vidtune.media import pool as pool_module
from vidtune.media.file_version import GONE, version_of
from vidtune.media.pool import MediaPool
from vidtune.processing.batch import Batch, Example
from vidtune.recipe.types import Recipe
from vidtune.training.packs.loading import PackLoader
from vidtune.training.packs.pack import LoadedPack
from vidtune.training.setup.exclusions import Excluded, FailedFiles
from vidtune.training.setup.stage import StageSetup, set_up

SETTINGS = {"workers": 0, "max_tokens_per_batch": 300, "global_batch_size": 6, "epochs": 2}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each media file is read."""
    names: Counter[str] = Counter()
    real = pool_module.execute

    def execute(job: pool_module.LoadJob) -> object:
        names[Path(job.path).name] += 1
        return real(job)

    monkeypatch.setattr(pool_module, "execute", execute)
    return names


def load(
    setup: StageSetup,
    rank: int = 0,
    world: int = 1,
    first_step: int = 0,
    known: tuple[Excluded, ...] = (),
    failed: FailedFiles | None = None,
):
    made: list[int] = []

    def make(index: int, epoch: int) -> Example:
        made.append(index)
        return setup.example(index, epoch)

    with MediaPool(0, None) as pool:
        loader = PackLoader(
            setup.plan,
            make,
            {name: stream.preprocessing for name, stream in setup.processor.streams.items()},
            pool,
            first_step=first_step,
            known=known,
            failed=failed,
            rank=rank,
            world=world,
        )
        return list(loader), made


def set_up_with(make_recipe, out: Path, samples: list | None = None, **changes: object) -> StageSetup:
    recipe: Recipe = make_recipe(samples, **{**SETTINGS, **changes})
    return set_up(recipe, 0, out)


def same_batch(one: Batch, other: Batch) -> bool:
    return (
        one.ids == other.ids
        and one.cu_seqlens == other.cu_seqlens
        and torch.equal(one.input_ids, other.input_ids)
        and torch.equal(one.labels, other.labels)
        and one.media.keys() == other.media.keys()
        and all(
            torch.equal(item.values, twin.values) and item.num_tokens == twin.num_tokens
            for name in one.media
            for item, twin in zip(one.media[name], other.media[name], strict=True)
        )
    )


def test_ranks_load_their_own_packs_of_the_same_plan_in_equally_many_places(make_recipe, tmp_path: Path) -> None:
    setup = set_up_with(make_recipe, tmp_path)
    alone, _ = load(setup)
    packs = {(loaded.step, loaded.number): loaded for loaded in alone}
    assert len(packs) == len(alone) > setup.plan.total_steps
    for world in (2, 3, 5):
        ranks = [load(setup, rank, world) for rank in range(world)]
        places = [[(loaded.step, loaded.is_last) for loaded in loads] for loads, _ in ranks]
        assert all(place == places[0] for place in places)
        assert [last for _, last in places[0]].count(True) == setup.plan.total_steps
        found = {(p.step, p.number): p for loads, _ in ranks for p in loads if p.number is not None}
        assert found.keys() == packs.keys()
        assert all(same_batch(found[key].batch, packs[key].batch) for key in packs)
        dummies = [loaded for loads, _ in ranks for loaded in loads if loaded.number is None]
        assert all(loaded.batch is None and not loaded.excluded for loaded in dummies)
        for loads, made in ranks:
            assert sorted(made) == sorted(index for loaded in loads for index in loaded.indices)
    assert dummies


def test_packs_are_what_the_plan_says(make_recipe, tmp_path: Path) -> None:
    setup = set_up_with(make_recipe, tmp_path)
    lengths = setup.plan.lengths
    for loaded in load(setup, first_step=1)[0]:
        planned = setup.plan.packs(loaded.step)[loaded.number]
        assert loaded.indices == planned.tolist()
        assert loaded.batch.num_tokens == lengths.tokens[planned].sum()
        assert loaded.num_supervised == lengths.supervised[planned].sum()
        assert {n: len(b) for n, b in loaded.batch.media.items()} == {
            name: count for name, column in lengths.items.items() if (count := column[planned].sum())
        }


def test_a_file_that_failed_before_is_taken_out_of_a_loaded_pack(make_recipe, media: Path, tmp_path: Path) -> None:
    setup = set_up_with(make_recipe, tmp_path, global_batch_size=11, max_tokens_per_batch=3000, order="sequential")
    (first, second), _ = load(setup)
    steps = {"red.mp4": range(1, 9), "blue.png": range(1, 9), "white.png": range(2, 9), "green.png": range(5, 9)}
    failed = {str(media / name): (left_out,) for name, left_out in steps.items()}
    assert first.without(failed) is first
    left = second.without(failed)
    kept = [1, 2, 3, 4, 5, 7, 9, 10]
    assert left.indices == kept
    assert [(e.index, e.step, Path(e.path).name) for e in left.excluded] == [
        (0, 1, "red.mp4"), (6, 1, "blue.png"), (8, 1, "red.mp4")
    ]  # fmt: skip
    assert left.num_supervised == left.batch.num_supervised == setup.plan.lengths.supervised[kept].sum()
    expected, _ = load(setup, first_step=1, known=tuple(left.excluded))
    assert same_batch(left.batch, expected[0].batch)
    assert left.without({str(path): (range(1, 9),) for path in media.iterdir()}).batch.ids == ["train:9", "train:10"]
    assert second.without({}) is second


def test_a_pack_of_nothing_but_failed_files_is_empty(make_recipe, media: Path, tmp_path: Path) -> None:
    setup = set_up_with(make_recipe, tmp_path, mixed_samples()[:2], global_batch_size=2)
    loaded = load(setup)[0][1]
    left = loaded.without({str(media / name): (range(1, 9),) for name in ("red.mp4", "green.mp4")})
    assert (left.batch, left.num_supervised, left.is_last, left.number) == (None, 0, True, 0)
    assert sorted(entry.index for entry in left.excluded) == [0, 1]


def test_a_failure_names_rank_and_seconds_and_later_steps_do_not_try_again(
    make_recipe, tmp_path: Path, opened: Counter[str]
) -> None:
    samples = [*mixed_samples(), conversation("<video>\nWhat?", "x", video="gone.mp4")]
    setup = set_up_with(make_recipe, tmp_path, samples, epochs=3)
    loads = [load(setup, rank, 2)[0] for rank in range(2)]
    entries = [entry for loaded in loads[0] + loads[1] for entry in loaded.excluded]
    first = next(entry for entry in entries if entry.seconds > 0)
    assert "No such file" in first.reason or "does not exist" in first.reason
    assert {entry.rank for entry in loads[1] for entry in entry.excluded} <= {1}
    assert len(entries) == 3
    again = [entry for entry in entries if entry.seconds == 0]
    assert all("not tried again" in entry.reason for entry in again)
    assert opened["gone.mp4"] == 3 - len(again)
    single = [entry for loaded in load(setup)[0] for entry in loaded.excluded]
    assert [entry.seconds > 0 for entry in single] == [True, False, False]


def test_a_file_that_comes_while_it_fails_is_recorded_as_the_one_that_failed(
    make_recipe, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = media / "late.mp4"
    setup = set_up_with(make_recipe, tmp_path, [conversation("<video>\nWhat?", "x", video=late.name)] * 2)
    real = pool_module.execute

    def execute(job: pool_module.LoadJob) -> object:
        try:
            return real(job)
        finally:
            late.write_bytes(b"now it is there")

    monkeypatch.setattr(pool_module, "execute", execute)
    try:
        first, *_ = [entry for loaded in load(setup)[0] for entry in loaded.excluded]
        assert first.seconds > 0 and first.file == GONE != version_of(str(late))
    finally:
        late.unlink(missing_ok=True)  # other tests share the folder


def test_what_other_ranks_saw_fail_is_not_decoded(
    make_recipe, media: Path, tmp_path: Path, opened: Counter[str]
) -> None:
    setup = set_up_with(make_recipe, tmp_path, order="sequential")
    with MediaPool(0, None) as pool:
        preprocessing = {name: stream.preprocessing for name, stream in setup.processor.streams.items()}
        loader = PackLoader(setup.plan, setup.example, preprocessing, pool)
        for red, blue in ((range(3, 9), range(1, 9)), (range(1, 9), range(4, 9))):
            loader.learn({str(media / "red.png"): (red,), str(media / "blue.png"): (blue,)})
        loads = list(loader)
    left_out = sorted((e.step, Path(e.path).name) for loaded in loads for e in loaded.excluded)
    # Red stands in steps 0 and 2; blue, which failed in the first step elsewhere, twice in steps 1 and 3.
    assert left_out == [(1, "blue.png"), (1, "blue.png"), (2, "red.png"), (3, "blue.png"), (3, "blue.png")]
    assert (opened["red.png"], opened["blue.png"]) == (1, 0)


def test_a_resumed_step_leaves_out_the_same_samples_and_no_others(
    make_recipe, media: Path, tmp_path: Path, opened: Counter[str]
) -> None:
    samples = [conversation(f"<video>\nQuestion {n}?", "yes.", video=f"{c}.mp4") for c in COLOURS for n in range(3)]
    setup = set_up_with(make_recipe, tmp_path, samples, order="sequential", max_tokens_per_batch=3000)
    red = str(media / "red.mp4")
    # In step 0 one rank saw the file fail, for sample 1 only; another rank could read it.
    known = (Excluded("train:1", 1, 0, red, "timed out", 3, 2.0),)
    for world in (1, 2):
        loads: list[LoadedPack] = []
        for rank in range(world):
            loads += load(setup, rank, world, known=known, failed={red: (range(1, 9),)})[0]
        by_step = {step: sorted(e.index for p in loads if p.step == step for e in p.excluded) for step in range(4)}
        assert by_step == {0: [1], 1: [], 2: [0, 1, 2], 3: []}
        (entry,) = [e for p in loads if p.step == 0 for e in p.excluded]
        assert entry == known[0]


def test_extras_of_the_annotation_reach_the_items_of_the_pack(make_recipe, tmp_path: Path) -> None:
    samples = [
        {
            "video": f"{colour}.mp4",
            "conversations": [{"from": "human", "value": "<video>What?"}, {"from": "gpt", "value": colour}],
            "extras": {"video": {"boxes": [[number, 1], [2, 3]]}},
        }
        for number, colour in enumerate(("red", "blue"))
    ]
    setup = set_up_with(make_recipe, tmp_path, samples, global_batch_size=2, max_steps=1)
    loads, _ = load(setup)
    found = {}
    for loaded in loads:
        for example, item in zip(loaded.examples, loaded.batch.media["video"], strict=True):
            assert item.name == f"{example.id}: {example.media[0].ref.path}"
            assert item.measured.tokens == item.num_tokens
            found[Path(example.media[0].ref.path).stem] = item.extras["boxes"].tolist()
    assert found == {"red": [[0, 1], [2, 3]], "blue": [[1, 1], [2, 3]]}


def test_what_is_not_in_a_file_costs_only_the_sample_that_asks_for_it(
    make_recipe, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = set_up_with(make_recipe, tmp_path, epochs=3)
    real = pool_module.execute

    def execute(job: pool_module.LoadJob) -> object:
        if job.path == str(media / "red.mp4"):
            raise ItemError(str(media / "red.mp4"), "box 0 lies outside the frame")
        return real(job)

    monkeypatch.setattr(pool_module, "execute", execute)
    left_out = [entry for loaded in load(setup)[0] for entry in loaded.excluded]
    asking = [n for n, sample in enumerate(mixed_samples()) if sample.get("video") == "red.mp4"]
    assert sorted(entry.index for entry in left_out) == sorted(asking * 3)
    assert {(entry.path, entry.file) for entry in left_out} == {(None, None)}
    assert {entry.reason for entry in left_out} == {f"{media / 'red.mp4'}: box 0 lies outside the frame"}
