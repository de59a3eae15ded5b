"""The files of one checkpoint, each of which is opened at most once."""

from pathlib import Path
from typing import Any

from vidtune.checkpoints.files.hub import locate
from vidtune.checkpoints.files.misplaced import elsewhere
from vidtune.checkpoints.files.tensors import PICKLED, SINGLE_NAMES, TensorFile, Tensors, weight_files
from vidtune.errors import UserError
from vidtune.foreign.documents import read_object
from vidtune.foreign.model_settings import of_weights, require_possible_sizes

CONFIG = "config.json"
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


class CheckpointFiles:
    """A folder or single file of a checkpoint. JSON files are parsed once; tensors are read when they are asked for.

    Args:
        place: local path, or hub id (``org/name`` or ``org/name@revision``). Configs are downloaded at once, weights
            when they are first asked for.

    Attributes:
        path: local folder or file.

    Raises:
        UserError: there is nothing at this place.
    """

    def __init__(self, place: str | Path) -> None:
        self.place = str(place)
        self.path = locate(self.place, weights=False)
        self._objects: dict[str, dict[str, Any]] = {}
        self._config: dict[str, Any] | None = None
        self._tensors: dict[tuple[str, tuple[str, ...]], Tensors] = {}
        self._files: dict[Path, TensorFile] = {}

    def has(self, name: str) -> bool:
        """Whether the folder holds a file of this name; False for a single file."""
        return self.path.is_dir() and (self.path / name).is_file()

    @property
    def has_tokenizer(self) -> bool:
        """Whether the files of a tokenizer are in the folder."""
        return any(map(self.has, _TOKENIZER))

    def json(self, name: str) -> dict[str, Any]:
        """Return the object in a JSON file of the folder. Raises UserError where it is missing or broken."""
        if name not in self._objects:
            self._objects[name] = read_object(self.path / name)
        return self._objects[name]

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json; empty for a folder without one, and for a single file.

        Settings that name code, such as ``auto_map`` or a kernel for the attention, and those of how a model is called
        are left out.
        """
        return self.require_config() if self.has(CONFIG) else {}

    def require_config(self) -> dict[str, Any]:
        """Return the content of config.json. Raises UserError where there is none."""
        if not self.has(CONFIG):
            where = elsewhere(self.path) or "; give the folder of a checkpoint"
            raise UserError(f"{self.path}: no config.json here{where}")
        if self._config is None:
            self._config = of_weights(self.json(CONFIG))
            require_possible_sizes(self._config, self.path / CONFIG)
        return self._config

    def tensors(self, names: tuple[str, ...] = SINGLE_NAMES, inside: str = ".") -> Tensors:
        """Return the tensors of the single file, or of the folder.

        Args:
            names: names of a single file in a folder, most wanted first.
            inside: folder in the checkpoint's folder.

        Raises:
            UserError: no weights there, or a shard is missing.
        """
        if (inside, names) not in self._tensors:
            path = locate(self.place)  # a hub repository whose configs alone were needed so far
            found = weight_files(path if path.is_file() else path / inside, names)
            files = [self._files.setdefault(file, TensorFile(file)) for file in found]
            self._tensors[inside, names] = Tensors(files)
        return self._tensors[inside, names]

    @property
    def is_one_file(self) -> bool:
        """Whether one file tells everything: it was named itself, or is a pickle alone in a folder without config."""
        if self.path.is_file():
            return True
        if self.has(CONFIG):
            return False
        try:
            return [file.path.suffix in PICKLED for file in self.tensors().files] == [True]
        except UserError:
            return False

    def close(self) -> None:
        """Give all open files back; asking again opens them again."""
        for file in self._files.values():
            file.close()
