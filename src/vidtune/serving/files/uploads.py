"""Media that requests bring along as ``data:`` addresses: one file for each content, removed when nobody needs it."""

import binascii
import hashlib
import re
import tempfile
import threading
import weakref
from mimetypes import guess_extension
from pathlib import Path

from vidtune.serving.files.recent import Recent
from vidtune.serving.problems import ApiProblem, storing

KEPT_BYTES = 2**31
"""Bytes of files that are kept after their request, for the next turn about them."""
_HEAD = re.compile(
    r"data:(?P<type>(?:video|image)/[\w.+-]+|application/octet-stream)(?:;[\w=.,+\" -]*)*?;base64,",
    re.ASCII | re.IGNORECASE,
)


class Upload:
    """A file that lives as long as this object.

    Args:
        path: the file.
        size: its bytes.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self._end = weakref.finalize(self, path.unlink, missing_ok=True)


class Uploads:
    """Keeps uploaded files in a temporary folder, which goes with this object.

    The file of an upload that a request still holds stays, whatever is uploaded meanwhile.

    Args:
        seconds: time after which a file goes that no request brought again, when `let_old_go` is called.
        kept_bytes: bytes of files that are kept beyond their requests; those that were not asked for longest go first.
    """

    def __init__(self, seconds: float, kept_bytes: int = KEPT_BYTES) -> None:
        self.kept_bytes = kept_bytes
        self._folder = tempfile.TemporaryDirectory(prefix="vidtune-uploads-", ignore_cleanup_errors=True)
        self._recent: Recent[Upload] = Recent(seconds)
        self._alive: weakref.WeakValueDictionary[str, Upload] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def take(self, address: str, where: str) -> Upload:
        """Returns the file of a ``data:`` address; the same one for the same content. May be called by several threads.

        Args:
            where: place in the request, for messages.

        Raises:
            ApiProblem: the address is no base64 of a video or picture, or empty; the disk is full.
        """
        content, suffix = _decoded(address, where)
        name = hashlib.sha256(content).hexdigest() + suffix
        with self._lock:
            upload = self._alive.get(name)
            if upload is None:
                upload = self._alive[name] = self._write(name, content, where)
            self._recent.put(name, upload)
            while sum(one.size for one in self._recent.values()) > self.kept_bytes:
                self._recent.let_first_go()
        return upload

    def let_old_go(self) -> float:
        """Let files go whose time is over. Returns the seconds until the next one may be."""
        with self._lock:
            return self._recent.let_old_go()

    def _write(self, name: str, content: bytes, where: str) -> Upload:
        path = Path(self._folder.name) / name
        try:
            with storing(where):
                path.write_bytes(content)
        except ApiProblem:
            path.unlink(missing_ok=True)
            raise
        return Upload(path, len(content))


def _decoded(address: str, where: str) -> tuple[bytes, str]:
    """The bytes of a ``data:`` address, and the end of the name of its file."""
    head = _HEAD.match(address)
    if head is None:
        message = f"{where}: a data address begins with data:video/mp4;base64, or another type of video or image"
        raise ApiProblem(400, message, code="invalid_data_url", param=where)
    try:
        content = binascii.a2b_base64(address[head.end() :].encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ApiProblem(400, f"{where}: no base64: {error}", code="invalid_data_url", param=where) from None
    if not content:
        raise ApiProblem(400, f"{where}: the file is empty", code="invalid_data_url", param=where)
    return content, guess_extension(head["type"]) or ""
