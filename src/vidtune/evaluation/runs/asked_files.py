"""The files that a run was asked about, by their content: answers of one run are about one version of each file.

``files.jsonl`` in the folder of the run holds one line per file of a video (see `AskedFile`); the last one of a file
counts. Runs of earlier versions have no such lines; nothing can be said about their answers.
"""

import contextlib
import errno
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from vidtune.checkpoints.files.fingerprint import add_content
from vidtune.errors import UserError
from vidtune.evaluation.question import Question
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.run_info import DataIdentity, described_features
from vidtune.machine.records import RecordWriter, numbered_records
from vidtune.media.file_version import FileVersion, version_of

ASKED_FILES = "files.jsonl"
WHOLE_FILE_LIMIT = 4 * 2**20
SAMPLES = 16
"""Number of blocks that are read of a large file, and of files that are read of a large folder."""

Key = tuple[str, str]
"""A video, and what is read: "" for its file, the name of a stream for stored features, or the path of another file."""


class AskedFile(NamedTuple):
    """A file that was read to answer questions.

    Args:
        name: path below the folder of the test set, or of its stream's features; empty: there was none.
        version: see `file_version`; a file of this version is not read again.
        content: see `content_of`; None: there was no file, or it changed while it was asked about.
    """

    name: str
    version: FileVersion
    content: str | None


class AskedFiles:
    """Notes and compares the files of a run.

    Args:
        data: test set of now.
    """

    def __init__(self, run: RunFolder, data: DataIdentity) -> None:
        self._run, self._data = run, data
        self._known = _stored(run.path / ASKED_FILES)
        self._begun: dict[Key, AskedFile] = {}

    def require_unchanged(self, questions: Sequence[Question]) -> None:
        """Compare the files of all answered questions with those of now. Equal files may lie elsewhere.

        Args:
            questions: the questions of the run, answered or not.

        Raises:
            UserError: a file has another content than the one that was asked about; names the first.
        """
        answered = {one.index for one in self._run.predictions() if one.error is None}
        asked = [one for one in questions if one.index in answered and not one.missing]
        paths = {key: named for question in asked for key, named in self._paths(question).items()}
        self._require_same_folders(paths)
        changed: list[str] = []
        moved: dict[Key, AskedFile] = {}
        for key, (name, path) in paths.items():
            if key not in self._known:
                continue
            known, version = self._known[key], version_of(path)
            content = known.content if version == known.version else None
            now = AskedFile(name, version, content or content_of(path))
            difference = _difference(known, now, path)
            if difference is not None:
                changed.append(difference)
            elif now.content is not None and now != known:
                moved[key] = now
        if changed:
            others = f" ({len(changed)} files differ)" if len(changed) > 1 else ""
            raise UserError(
                f"{self._run.path}: {changed[0]} when its questions were answered{others}; put back what was there, or "
                "choose another folder with --out"
            )
        self._write(moved)

    def begin(self, questions: Sequence[Question]) -> None:
        """Look at the files of questions that are asked now."""
        for question in questions:
            for key, (name, path) in self._paths(question).items():
                if key not in self._begun:
                    self._begun[key] = AskedFile(name, version_of(path), None)

    def note(self, questions: Sequence[Question]) -> None:
        """Store the content of the files of questions that were answered, unless it is stored already."""
        found: dict[Key, AskedFile] = {}
        for question in questions:
            for key, (_, path) in self._paths(question).items():
                file, known = self._begun[key], self._known.get(key)
                if known is None or (known.name, known.version) != (file.name, file.version):
                    content = content_of(path)
                    found[key] = file._replace(content=content if version_of(path) == file.version else None)
        self._write(found)

    def _paths(self, question: Question) -> dict[Key, tuple[str, str]]:
        """Returns name and path of what a question reads; both are empty where a stream has no stored features."""
        protocol, features = self._run.info.protocol, dict(question.features)
        found = {}
        if question.file is not None and protocol.reads_videos:
            found[question.video, ""] = (question.file, str(Path(self._data.folder, question.file)))
        for stream, folder in self._data.features.items():
            if stream not in protocol.without:
                path = features.get(stream, "")
                inside = path and Path(path).is_relative_to(folder)
                found[question.video, stream] = (str(Path(path).relative_to(folder)) if inside else path, path)
        for ref in question.media:
            if ref.path:
                found[question.video, ref.path] = (ref.path, str(Path(self._data.folder, ref.path)))
        return found

    def _require_same_folders(self, keys: Iterable[Key]) -> None:
        """Features whose content was not stored count as equal in the same folder only."""
        stored = dict(self._run.info.data.features)
        moved = [stream for stream, folder in self._data.features.items() if stored.get(stream) != folder]
        if any(key[1] in moved and key not in self._known for key in keys):
            old, new = described_features(self._run.info.data), described_features(self._data)
            raise UserError(
                f"{self._run.path}: holds the results of another run (features {old}, not {new}); "
                "choose another output folder"
            )

    def _write(self, files: dict[Key, AskedFile]) -> None:
        if files:
            lines = [{"video": video, "what": what, **file._asdict()} for (video, what), file in files.items()]
            with contextlib.closing(RecordWriter(self._run.path / ASKED_FILES, shared=True)) as records:
                records.append_all(lines)
            self._known |= files


def _difference(before: AskedFile, now: AskedFile, path: str) -> str | None:
    """Returns how a file differed, in words that end before "when"; None: it did not."""
    if not before.name or not now.name:
        if before.name == now.name:
            return None
        return f"{path} was not there" if now.name else f"{before.name}, which is gone, was there"
    # Of a file that cannot be read now nothing is known, and no answer can come from it: a question about it fails.
    if now.content is None or now.content == before.content:
        return None
    return f"{path} had another content" if now.name == before.name else f"{path} was another file ({before.name})"


def content_of(path: str) -> str | None:
    """Returns 32 hex digits from size and content of a file, or from a folder's names, sizes and content.

    Files up to 4 MiB are read whole; of larger ones, 16 evenly spaced blocks of 256 KiB. Of a folder with more files,
    16 are read.

    Returns:
        None: it cannot be read, or the path is empty.
    """
    if not path:
        return None
    digest = hashlib.sha256()
    try:
        files = _files(Path(path))
        sizes = [["" if file == Path(path) else file.name, file.stat().st_size] for file in files]
        digest.update(repr(sizes).encode(errors="surrogateescape"))
        last = len(files) - 1
        for place in range(len(files)) if last < SAMPLES else (last * one // (SAMPLES - 1) for one in range(SAMPLES)):
            add_content(digest, files[place], WHOLE_FILE_LIMIT, SAMPLES)
    except OSError:
        return None
    return digest.hexdigest()[:32]


def _files(path: Path) -> list[Path]:
    if not path.is_dir() and not path.is_file():  # opening a pipe or a device might wait for ever
        raise OSError(errno.EINVAL, "not a file", str(path))
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]


def _stored(path: Path) -> dict[Key, AskedFile]:
    """Reads the last line of every file."""
    found = {}
    for number, line in numbered_records(path):
        try:
            size, modified, changed = line["version"]
            found[line["video"], line["what"]] = AskedFile(line["name"], (size, modified, changed), line["content"])
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path}: line {number}: tells no file of a video; was it changed by hand?") from None
    return found
