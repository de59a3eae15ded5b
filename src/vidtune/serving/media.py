"""Media of requests: from a path below the media root, base64 data or a web address, to a file that is safe to read."""

import asyncio
import hashlib
import secrets
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vidtune.data.media_root import resolve
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.media.clip_times import asked_part
from vidtune.media.feature_file import is_feature_file
from vidtune.media.kept.identity import MediaIdentities
from vidtune.serving.files.fetch import Fetcher
from vidtune.serving.files.stored import StoredFiles, is_file_id
from vidtune.serving.files.uploads import Upload, Uploads
from vidtune.serving.limits import Limits
from vidtune.serving.messages import AskedMedium
from vidtune.serving.problems import ApiProblem
from vidtune.serving.wire import Box

_FETCHES = 4
"""Web addresses that are fetched at a time."""
_SHOWN = 80
"""Characters of an address in messages."""


@dataclass(frozen=True)
class TakenMedium:
    """A medium that can be read as long as this object is held: a file that came with the request then goes.

    Args:
        ref: the file.
        identity: by its content; equal files have equal ones.
        where: place in the request.
        said: the medium as the request names it, for messages.
        upload: the file that came with the request; None: it was there.
        box: what the questions are about in it.
    """

    ref: MediaRef
    identity: str
    where: str
    said: str
    upload: Upload | None = None
    box: Box | None = None


class MediaIntake:
    """Finds the files of media.

    Args:
        root: folder whose files requests may name; None: they may name none.
        fetcher: fetches web addresses; None: none are fetched.
        limits: how many files clients may send before they ask about them, and how long files of clients are kept.

    Attributes:
        files: these files.
    """

    def __init__(self, root: Path | None, fetcher: Fetcher | None = None, limits: Limits | None = None) -> None:
        self.root = None if root is None else root.resolve()
        limits = limits or Limits()
        self.fetcher, self.files, self._uploads = fetcher, StoredFiles(limits), Uploads(limits.files_seconds)
        self._fetched = tempfile.TemporaryDirectory(prefix="vidtune-fetched-", ignore_cleanup_errors=True)
        self._identities = MediaIdentities()
        self._fetching = ThreadPoolExecutor(_FETCHES, thread_name_prefix="vidtune-fetching")

    async def let_old_go(self) -> None:
        """Let files that clients brought go when their time is over, also while nobody asks; until it is cancelled."""
        while True:
            wait = await asyncio.to_thread(self._uploads.let_old_go)  # which waits while a file is written
            await asyncio.sleep(min(self.files.let_old_go(), wait))

    async def take(self, asked: AskedMedium) -> TakenMedium:
        """Returns a medium. Raises ApiProblem if it is not allowed or not there."""
        medium, where = asked.medium, asked.where
        try:
            part = asked_part(medium.start, medium.end, medium.frames, medium.frames_at)
        except UserError as error:
            raise ApiProblem(400, f"{where}: {error}", param=where) from None
        if part is not None and asked.stream != "video":
            raise ApiProblem(400, f"{where}: start, end, frames and frames_at are for videos", param=where)
        scheme, colon, _ = medium.url.partition(":")
        said, upload = repr(medium.url[:_SHOWN]), None
        if scheme.lower() == "data" and colon:
            upload, said = await asyncio.to_thread(self._uploads.take, medium.url, where), "the file"
        elif is_file_id(medium.url):
            upload, said = self.files.find(medium.url).upload, "the file"
        elif "://" in medium.url[:10] and scheme.lower() in ("http", "https"):
            loop = asyncio.get_running_loop()
            upload = await loop.run_in_executor(self._fetching, self._fetch, medium.url, where)
        elif "://" in medium.url[:10]:
            message = f"{where}: {scheme[:20]}: is not read; give data:, https:, or a path below the media root"
            raise ApiProblem(400, message, code="media_not_allowed", param=where)
        if upload is None:
            path = await asyncio.to_thread(self._below_root, asked)
            identity = await asyncio.to_thread(self._identities.of, str(path))
        else:
            path, identity = upload.path, upload.path.name.partition(".")[0]
        ref = MediaRef(asked.stream, str(path)).read_as(part)
        return TakenMedium(ref, identity or str(path), where, said, upload, medium.box)

    def _fetch(self, url: str, where: str) -> Upload:
        if self.fetcher is None:
            message = f"{where}: nothing is fetched from the web; the server was started without --allow-host"
            raise ApiProblem(400, message, code="media_not_allowed", param=where)
        path = Path(self._fetched.name) / secrets.token_hex(8)
        try:
            self.fetcher.fetch(url, path, where)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            return Upload(path.rename(path.with_name(f"{digest}.{path.name}")), 0)
        finally:
            path.unlink(missing_ok=True)

    def _below_root(self, asked: AskedMedium) -> Path:
        name, where = asked.medium.url, asked.where
        if self.root is None:
            message = f"{where}: files of this machine are read only below --media-root, which the server was not given"
            raise ApiProblem(400, message, code="media_not_allowed", param=where)
        try:
            path = Path(resolve(self.root, name))
        except SampleProblem:
            message = f"{where}: {name[:_SHOWN]!r} is not a path below the media root"
            raise ApiProblem(400, message, code="media_not_allowed", param=where) from None
        try:
            there = path.exists() and not is_feature_file(str(path))
        except OSError:  # a name that is too long
            there = False
        if not there:
            message = f"{where}: {name[:_SHOWN]!r}: no such media file"
            raise ApiProblem(400, message, code="media_not_found", param=where)
        return path
