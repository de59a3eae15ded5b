"""Step checkpoints of a stranger: nothing in them is run, and training goes on from the newest that can be read."""

import contextlib
import errno
import io
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata

from vidtune.errors import UserError
from vidtune.training import saving
from vidtune.training.run import train_stages
from vidtune.training.saving import DAMAGED, Saver
from vidtune.training.signals import TrainingInterrupted
from vidtune.training.step_files import ValuePlace, read_metadata


class OneRank:
    """The only process."""

    world, rank, is_main = 1, 0, True

    def new_group(self, timeout: object) -> None:
        return None

    def gather(self, value: Any, group: object = None) -> list[Any]:
        return [value]

    def agreed(self, group: object = None) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class Making:
    """Pickles as a command that makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def saver(tmp_path: Path) -> Saver:
    """Has written ``checkpoint-1``; its net has other weights now."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    groups = [{"params": part.parameters(), "lr": 0.1, "component": "a"} for part in net]
    optimizer = torch.optim.AdamW(groups)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    with Saver(tmp_path, net, optimizer, 2, OneRank()) as saver:  # type: ignore[arg-type]
        saver.save(1, {"step": 1})
        saver.wait()
        with torch.no_grad():
            net[0].weight.zero_()
        optimizer.param_groups[0]["lr"] = 9.0
        yield saver


def change(folder: Path, edit: Callable[[Metadata], object]) -> None:
    metadata = FileSystemReader(folder).read_metadata()
    edit(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def test_a_checkpoint_gives_what_was_saved_and_its_metadata_is_read_as_torch_reads_it(saver: Saver, tmp_path) -> None:
    saver.load(tmp_path / "checkpoint-1")
    assert saver._net[0].weight.count_nonzero() == 12
    assert [group["lr"] for group in saver._optimizer.param_groups] == [0.1, 0.1]
    ours, theirs = read_metadata(tmp_path / "checkpoint-1"), FileSystemReader(tmp_path / "checkpoint-1").read_metadata()
    places = {key: ValuePlace(one.relative_path, one.offset, one.length) for key, one in theirs.storage_data.items()}
    assert ours.storage_data == places
    assert ours.state_dict_metadata.keys() == theirs.state_dict_metadata.keys()


def test_a_checkpoint_for_which_the_disk_has_no_room_leaves_nothing_behind(
    saver: Saver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(tmp_path.iterdir())

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(saving, "force_to_disk", full)
    saver.save(7, {"step": 7})
    with pytest.raises(UserError, match="checkpoint-7: cannot be written, the disk is full"):
        saver.wait()
    assert sorted(tmp_path.iterdir()) == before


def test_a_command_in_the_metadata_is_not_run(saver: Saver, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    (folder / ".metadata").write_bytes(pickle.dumps(Making(tmp_path / "made")))
    with pytest.raises(UserError, match=r"checkpoint-1/\.metadata: .*names (posix|nt)\.mkdir"):
        saver.load(folder)
    assert not (tmp_path / "made").exists()
    with contextlib.suppress(AttributeError):
        FileSystemReader(folder).read_metadata()
    assert (tmp_path / "made").exists(), "torch's reader runs it"


def test_a_command_among_the_values_is_not_run(saver: Saver, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    planted = io.BytesIO()
    torch.save(Making(tmp_path / "made"), planted)

    def point(metadata: Metadata) -> None:
        value = next(one for key, one in metadata.storage_data.items() if key.fqn == "optimizer.param_groups.0.lr")
        value.offset, value.length = (folder / "__0_0.distcp").stat().st_size, len(planted.getvalue())

    change(folder, point)
    with (folder / "__0_0.distcp").open("ab") as file:
        file.write(planted.getvalue())
    with pytest.raises(UserError, match=r"__0_0\.distcp: .*names (posix|nt)\.mkdir") as caught:
        saver.load(folder)
    assert not (tmp_path / "made").exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: [setattr(one, "relative_path", "../../secret") for one in m.storage_data.values()], "no file of a"),
        (lambda m: [setattr(one, "relative_path", "/dev/zero") for one in m.storage_data.values()], "no file of a"),
        (lambda m: [setattr(one, "offset", -5) for one in m.storage_data.values()], "impossible"),
        (lambda m: [setattr(one, "length", 2**50) for one in m.storage_data.values()], r"distcp: "),
        (lambda m: [setattr(one, "transform_descriptors", ["zstd"]) for one in m.storage_data.values()], "compressed"),
        (lambda m: m.state_dict_metadata["weights.0.weight"].chunks.clear(), "parts of weights.0.weight are missing"),
        (lambda m: m.state_dict_metadata.pop("optimizer.state.0.weight.exp_avg"), "exp_avg"),
        (lambda m: m.storage_data.clear(), "checkpoint-1"),
    ],
    ids=["outside", "device", "before", "behind", "compressed", "part", "optimizer", "nothing"],
)
def test_metadata_that_lie_are_one_line(edit: Callable, message: str, saver: Saver, tmp_path: Path) -> None:
    change(tmp_path / "checkpoint-1", edit)
    with pytest.raises(UserError, match=message) as caught:
        saver.load(tmp_path / "checkpoint-1")
    assert "\n" not in str(caught.value)


def test_a_value_of_another_kind_is_refused(saver: Saver, tmp_path: Path) -> None:
    def exchange(metadata: Metadata) -> None:
        places = {key.fqn: key for key in metadata.storage_data}
        rate, name = (places[f"optimizer.param_groups.0.{word}"] for word in ("lr", "component"))
        metadata.storage_data[rate] = metadata.storage_data[name]

    change(tmp_path / "checkpoint-1", exchange)
    with pytest.raises(UserError, match=r"param_groups\.0\.lr is of type str, expected float"):
        saver.load(tmp_path / "checkpoint-1")


def test_values_in_a_link_out_of_the_checkpoint_are_not_read(saver: Saver, tmp_path: Path) -> None:
    values = tmp_path / "checkpoint-1/__0_0.distcp"
    values.rename(tmp_path / "elsewhere")
    values.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="leads out of"):
        saver.load(tmp_path / "checkpoint-1")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def test_training_goes_on_from_the_newest_checkpoint_that_can_be_read(
    make_recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(max_steps=5, save_every=1, keep=4, workers=0)
    with pytest.raises(TrainingInterrupted):
        train_stages(recipe, tmp_path / "whole", stop_after=4, progress=False)
    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    stage = tmp_path / "out/align"
    cut(stage / "checkpoint-4/__0_0.distcp")
    (stage / "checkpoint-3/state.json").unlink()
    train_stages(recipe, tmp_path / "out", progress=False)
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert f"renamed {DAMAGED}checkpoint-4; training goes on from checkpoint-2" in said
    assert f"renamed {DAMAGED}checkpoint-3; training goes on from checkpoint-2" in said
    assert (stage / f"{DAMAGED}checkpoint-4/state.json").is_file()
    train_stages(recipe, tmp_path / "whole", progress=False)
    finals = [folder / "align/final/model.safetensors" for folder in (tmp_path / "out", tmp_path / "whole")]
    assert finals[0].read_bytes() == finals[1].read_bytes()


def test_a_stage_without_any_readable_checkpoint_is_not_begun_anew_by_itself(make_recipe, tmp_path: Path) -> None:
    recipe = make_recipe(max_steps=3, save_every=1, workers=0)
    with pytest.raises(TrainingInterrupted):
        train_stages(recipe, tmp_path / "out", stop_after=1, progress=False)
    cut(tmp_path / "out/align/checkpoint-1/.metadata")
    with pytest.raises(UserError, match=r"\.metadata: .*no checkpoint can be read: delete them to begin") as caught:
        train_stages(recipe, tmp_path / "out", progress=False)
    assert "\n" not in str(caught.value)


def test_metadata_in_a_link_out_of_the_checkpoint_are_not_read(saver: Saver, tmp_path: Path) -> None:
    metadata = tmp_path / "checkpoint-1/.metadata"
    metadata.rename(tmp_path / "elsewhere")
    metadata.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"\.metadata.*leads out of"):
        saver.load(tmp_path / "checkpoint-1")
