"""Checkpoints on the hub: one format is fetched, of the revision that is named; a cached copy does offline."""

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from tiny_checkpoint import write_checkpoint

from vidtune.checkpoints.files.hub import locate, pinned, wanted_files
from vidtune.checkpoints.load import load_checkpoint
from vidtune.cli.main import run as run_command
from vidtune.errors import UserError

SETTINGS = ["config.json", "tokenizer.model"]


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (["model.safetensors", "pytorch_model.bin", "consolidated.pth"], ["model.safetensors"]),
        (["pytorch_model.bin", "model.pt", "README.md"], ["pytorch_model.bin"]),
        (["BEATs.pt", "notes.md"], ["BEATs.pt"]),
        (
            [
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "pytorch_model-00001-of-00009.bin",
            ],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (
            ["adapter_model.safetensors", "non_lora_trainables.bin"],
            ["adapter_model.safetensors", "non_lora_trainables.bin"],
        ),
        (["model.safetensors", "optimizer.bin", "training_args.bin", "scheduler.pt"], ["model.safetensors"]),
        (["model.safetensors", "original/consolidated.00.pth", "onnx/model.bin"], ["model.safetensors"]),
        (
            ["adapter_model.safetensors", "towers.video/adapter_model.safetensors"],
            ["adapter_model.safetensors", "towers.video/adapter_model.safetensors"],
        ),
    ],
    ids=["safe", "bin", "pt", "shards", "run", "training", "folders", "bundle"],
)
def test_one_format_is_fetched(files: list[str], wanted: list[str]) -> None:
    assert wanted_files([*SETTINGS, *files]) == sorted([*SETTINGS, *wanted])
    assert wanted_files([*SETTINGS, *files], weights=False) == SETTINGS


class Hub:
    """Stands in for the hub client: one repository, which is a local folder."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder, self.offline = folder, False
        self.asked: list[tuple[str, str | None]] = []
        self.fetched: set[str] = set()
        patch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda api, name, revision: self.list(name, revision))
        patch.setattr(huggingface_hub, "snapshot_download", self.download)

    def list(self, name: str, revision: str | None) -> list[str]:
        if self.offline:
            raise OSError("offline mode is enabled")
        self.asked.append((name, revision))
        if revision not in (None, "v2"):
            raise OSError(f"no revision {revision}")
        return [path.name for path in self.folder.iterdir()]

    def download(self, name: str, revision: str | None, **options: Any) -> str:
        if options.get("local_files_only"):
            if revision != "v2":
                raise OSError("no copy here")
            return str(self.folder)
        self.fetched |= set(options["allow_patterns"])
        return str(self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    folder = write_checkpoint(tmp_path / "snapshot")
    (folder / "pytorch_model.bin").write_bytes(b"the same weights again")
    shutil.copy(folder / "pytorch_model.bin", folder / "extra.pt")
    return Hub(monkeypatch, folder)


def test_a_revision_is_passed_on(hub: Hub) -> None:
    load_checkpoint("org/name", revision="v2")
    assert set(hub.asked) == {("org/name", "v2")}
    assert "model.safetensors" in hub.fetched and "processor_config.json" in hub.fetched
    assert not hub.fetched & {"pytorch_model.bin", "extra.pt"}


def test_a_revision_may_stand_in_the_name(hub: Hub) -> None:
    assert locate("org/name@v2") == hub.folder
    assert locate("org/name", weights=False) == hub.folder
    assert hub.asked == [("org/name", "v2"), ("org/name", None)]


def test_a_cached_snapshot_does_without_the_hub(hub: Hub) -> None:
    hub.offline = True
    assert load_checkpoint("org/name", revision="v2").report.missing == []
    with pytest.raises(UserError, match=r"org/name@v3: no such folder here, and not from the hub \(offline mode"):
        load_checkpoint("org/name", revision="v3")


def test_a_revision_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no hub id, so it has no revision 'v2'"):
        pinned(str(tmp_path), "v2")
    with pytest.raises(UserError, match="names a revision already"):
        pinned("org/name@v1", "v2")


def test_commands_take_a_revision(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["convert", "org/name", str(tmp_path / "out"), "--revision", "v2"]) == 0
    assert set(hub.asked) == {("org/name", "v2")} and (tmp_path / "out/model.safetensors").is_file()
    hub.asked.clear()
    capsys.readouterr()
    assert run_command(["answer", "org/name", "--revision", "v3", "--question", "What?"]) == 2
    said = capsys.readouterr().err
    assert "org/name@v3" in said and said.count("\n") == 1
    assert run_command(["evaluate", "org/name", "--revision", "v3", "--out", str(tmp_path / "eval")]) == 2
    assert set(hub.asked) == {("org/name", "v3")}
