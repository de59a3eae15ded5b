"""Media of requests: from a path below the media root, to a file that is safe to read."""

from pathlib import Path

from vidtune.data.media_root import resolve
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef
from vidtune.media.clip_times import Part
from vidtune.media.feature_file import is_feature_file
from vidtune.serving.messages import AskedMedium
from vidtune.serving.problems import ApiProblem


class MediaIntake:
    """Finds the files of media.

    Args:
        root: folder whose files requests may name; None: they may name none.
    """

    def __init__(self, root: Path | None) -> None:
        self.root = None if root is None else root.resolve()

    async def ref(self, asked: AskedMedium) -> MediaRef:
        """Returns the reference to a medium. Raises ApiProblem if it is not allowed or not there."""
        medium = asked.medium
        try:
            Part(medium.start, medium.end)
        except ValueError as error:
            raise ApiProblem(400, f"{asked.where}: {error}", param=asked.where) from None
        return MediaRef(asked.stream, str(self._below_root(asked)), start=medium.start, end=medium.end)

    def _below_root(self, asked: AskedMedium) -> Path:
        name, where = asked.medium.url, asked.where
        if self.root is None:
            message = f"{where}: files of this machine are read only below --media-root, which the server was not given"
            raise ApiProblem(400, message, code="media_not_allowed", param=where)
        try:
            path = Path(resolve(self.root, name))
        except SampleProblem as problem:
            raise ApiProblem(400, f"{where}: {problem.detail}", code="media_not_allowed", param=where) from None
        if not path.exists() or is_feature_file(str(path)):
            raise ApiProblem(400, f"{where}: {name!r}: no such media file", code="media_not_found", param=where)
        return path
