"""A form with one file as browsers and OpenAI's clients send it (``multipart/form-data``, RFC 7578), read in pieces."""

from collections.abc import AsyncIterator, Callable
from email.message import Message
from email.parser import BytesHeaderParser

from vidtune.serving.problems import ApiProblem

FILE = "file"
_MOST_HEAD = 2**14
_MOST_FIELD = 2**12
"""Bytes of the head of a part, and of the value of a field."""

Take = Callable[[bytes], object]


def boundary_of(content_type: str) -> bytes:
    """Returns what stands between the parts of a form. Raises ApiProblem (415) for a body of another type."""
    head = Message()
    head["Content-Type"] = content_type
    boundary = head.get_param("boundary")
    if head.get_content_type() != "multipart/form-data" or not isinstance(boundary, str) or not boundary.isascii():
        message = "a file is sent as Content-Type: multipart/form-data, its field is called file"
        raise ApiProblem(415, message, code="unsupported_media_type")
    return boundary.encode()


async def read_form(pieces: AsyncIterator[bytes], boundary: bytes, take: Take) -> tuple[str, dict[str, str]]:
    """Read a form to its end.

    Args:
        pieces: pieces of the body.
        take: is given the pieces of the file.

    Returns:
        The name of the file, and the other fields.
    Raises:
        ApiProblem: no form, one without exactly one file, or fields that are too long.
    """
    between = b"\r\n--" + boundary
    rest = _Rest(pieces, b"\r\n")
    name, fields = None, dict[str, str]()
    await rest.until(between, lambda piece: None)
    while await rest.next(2) == b"\r\n":
        head = _Bounded(_MOST_HEAD, "the head of a part")
        await rest.until(b"\r\n\r\n", head.take)
        told = BytesHeaderParser().parsebytes(bytes(head.held) + b"\r\n\r\n")
        field = told.get_param("name", header="content-disposition")
        if not isinstance(field, str):
            raise _wrong("a part of the form has no name")
        if field != FILE:
            value = _Bounded(_MOST_FIELD, f"{field[:80]!r}")
            await rest.until(between, value.take)
            fields[field] = value.held.decode(errors="replace")
            continue
        if name is not None:
            raise _wrong("the form holds two files; send one")
        name = told.get_filename() or FILE
        await rest.until(between, take)
    if name is None:
        raise _wrong("the form has no field file")
    async for _ in pieces:  # what follows the end of the form is dropped
        pass
    return name, fields


class _Rest:
    """What of a body was not read yet."""

    def __init__(self, pieces: AsyncIterator[bytes], held: bytes) -> None:
        self.pieces, self.held = pieces, held

    async def until(self, mark: bytes, take: Take) -> None:
        """Give away all up to a mark, and drop the mark."""
        while (place := self.held.find(mark)) < 0:
            sure = max(0, len(self.held) - len(mark) + 1)
            take(self.held[:sure])
            self.held = self.held[sure:]
            await self._more()
        take(self.held[:place])
        self.held = self.held[place + len(mark) :]

    async def next(self, number: int) -> bytes:
        """The next bytes."""
        while len(self.held) < number:
            await self._more()
        found, self.held = self.held[:number], self.held[number:]
        return found

    async def _more(self) -> None:
        piece = await anext(self.pieces, None)
        if piece is None:
            raise _wrong("the body is no form, or ends before it does")
        self.held += piece


class _Bounded:
    def __init__(self, most: int, what: str) -> None:
        self.held, self.most, self.what = bytearray(), most, what

    def take(self, piece: bytes) -> None:
        self.held += piece
        if len(self.held) > self.most:
            raise _wrong(f"{self.what} is longer than {self.most:,} bytes")


def _wrong(message: str) -> ApiProblem:
    return ApiProblem(400, message, code="invalid_form", param=FILE)
