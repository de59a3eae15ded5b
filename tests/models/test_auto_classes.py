"""``import vidtune`` is enough for the auto classes of transformers, in either order; saving and pushing work."""

import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import huggingface_hub
import pytest
import torch
import transformers
from huggingface_hub.errors import LocalEntryNotFoundError
from tiny_language_models import byte_tokenizer
from tiny_models import tiny_model
from transformers import AutoModelForCausalLM, AutoProcessor

from vidtune.checkpoints.fit_processor import build_processor
from vidtune.models.auto import _list_once


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = tiny_model()
    model.save_pretrained(folder)
    build_processor(model.config, byte_tokenizer()).save_pretrained(folder)
    return folder


def run(code: str, *arguments: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


VIDTUNE_FIRST = """
import vidtune
assert not {"torch", "transformers", "numpy"} & set(sys.modules)
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor
assert type(AutoModelForCausalLM.from_pretrained(other)).__name__ == "LlamaForCausalLM"
assert "vidtune.models.video_lm" not in sys.modules, "our model code was imported before it was needed"
listed = sys.modules["transformers.utils.import_utils"].create_import_structure_from_path.cache_info()
assert listed.hits > listed.misses / 3, listed
processor = AutoProcessor.from_pretrained(ours)
model = AutoModelForCausalLM.from_pretrained(ours)
"""
TRANSFORMERS_FIRST = """
from transformers import AutoModelForCausalLM, AutoProcessor
import vidtune
model = AutoModelForCausalLM.from_pretrained(ours)
processor = AutoProcessor.from_pretrained(ours)
"""


@pytest.mark.whole  # each in a process of its own, which imports all; a pushed model loads by the auto classes below
@pytest.mark.parametrize("code", [VIDTUNE_FIRST, TRANSFORMERS_FIRST], ids=["vidtune_first", "transformers_first"])
def test_auto_classes_load_our_folder(code, folder, tmp_path):
    tiny_model().language_model.save_pretrained(tmp_path)
    code = "import sys\n_, ours, other = sys.argv" + code + "print(type(model), type(processor))"
    found = run(code, folder, tmp_path)
    assert "vidtune.models.video_lm.VideoLM'" in found and "VideoLMProcessor'" in found


def test_the_folders_of_transformers_are_listed_once():
    read = []

    @lru_cache(maxsize=1)
    def listing(folder):
        read.append(folder)
        return [module.create_import_structure_from_path(below) for below in ("a", "b") if folder == "top"]

    module = ModuleType("transformers.utils.import_utils")
    module.create_import_structure_from_path = listing
    _list_once(module)
    assert module.create_import_structure_from_path("top") == [[], []]
    module.create_import_structure_from_path("a")
    assert read == ["top", "a", "b"]
    _list_once(other := ModuleType("transformers.utils.import_utils"))  # of another version
    assert not hasattr(other, "create_import_structure_from_path")


class HubClient:
    """In the place of the hub: a repository is a folder."""

    def __init__(self, folder):
        self.folder = folder

    def create_repo(self, repo_id, **_):
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def create_commit(self, repo_id, operations, **_):
        for operation in operations:
            target = self.folder / repo_id / operation.path_in_repo
            target.parent.mkdir(parents=True, exist_ok=True)
            with operation.as_file() as file:
                target.write_bytes(file.read())
        return f"https://huggingface.co/{repo_id}"


def test_a_pushed_model_loads_again(folder, tmp_path, monkeypatch):
    client = HubClient(tmp_path)

    def no_card(*_, **__):
        raise LocalEntryNotFoundError("no card yet")

    monkeypatch.setattr(transformers.utils.hub.ModelCard, "load", no_card)
    for name in ("create_repo", "create_commit"):
        call = getattr(client, name)
        monkeypatch.setattr(huggingface_hub.HfApi, name, lambda _, *args, call=call, **options: call(*args, **options))
        monkeypatch.setattr(transformers.utils.hub, name, call, raising=False)
    model = AutoModelForCausalLM.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    model.push_to_hub("someone/tiny")
    processor.push_to_hub("someone/tiny")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "someone" / "tiny")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert AutoProcessor.from_pretrained(tmp_path / "someone" / "tiny").to_dict() == processor.to_dict()
