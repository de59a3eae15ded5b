"""Limits of the server, and the places that requests take: what there is no place for is refused at once."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from starlette.requests import Request

from vidtune.serving.problems import ApiProblem

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """How much a client may ask for.

    Args:
        body: bytes of a request.
        media_bytes: bytes of one medium.
        media_seconds: seconds of one medium, as it is read.
        queue: requests that wait or are answered at a time.
        seconds: seconds from the first byte of a request to its answer.
        media_timeout: seconds that reading one medium may take.
        files_bytes: bytes of all files that were sent before they are asked about.
        files: number of them.
        files_seconds: seconds after which a file goes that a client brought and nobody asked for.
    """

    body: int = 256 * MIB
    media_bytes: int = 1024 * MIB
    media_seconds: float = 4 * 3600.0
    queue: int = 256
    seconds: float = 600.0
    media_timeout: float = 60.0
    files_bytes: int = 4096 * MIB
    files: int = 1000
    files_seconds: float = 24 * 3600.0

    @property
    def bodies(self) -> int:
        """Bytes of all bodies that are held at a time."""
        return 4 * self.body


class Places:
    """Places of requests, and bytes of their bodies; used in one event loop.

    Attributes:
        taken: requests that have a place.
        seconds: mean time of an answer, by which `Retry-After` is told.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.taken = self.held = 0
        self.seconds = 1.0

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one request. Raises ApiProblem (429) if there is none."""
        if self.taken >= self.limits.queue:
            message = f"{self.taken} requests are waiting or being answered already; try again later"
            raise ApiProblem(429, message, code="queue_full", retry_after=max(1, round(self.seconds)))
        self.taken += 1
        began = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self.taken -= 1
            self.seconds += 0.1 * (asyncio.get_running_loop().time() - began - self.seconds)

    @contextmanager
    def room(self, number: int) -> Iterator[None]:
        """Room for the body of a request. Raises ApiProblem (429) if there is none."""
        if self.held + number > self.limits.bodies:
            message = "the bodies of other requests take all the room; try again later"
            raise ApiProblem(429, message, code="queue_full", retry_after=max(1, round(self.seconds)))
        self.held += number
        try:
            yield
        finally:
            self.held -= number

    async def body(self, request: Request) -> bytes:
        """Returns the body of a request.

        Raises:
            ApiProblem: it is larger than allowed (413), or does not come in time (408).
        """
        async with self.in_time(self.limits.body):
            return b"".join([piece async for piece in self.pieces(request, self.limits.body)])

    @asynccontextmanager
    async def in_time(self, most: int) -> AsyncIterator[None]:
        """Context manager in which a body of so many bytes comes, or ApiProblem (408) is raised."""
        try:
            async with asyncio.timeout(min(self.limits.seconds, 60 + most / MIB)):
                yield
        except TimeoutError:
            raise ApiProblem(408, "the body of the request did not come in time", code="body_timeout") from None

    async def pieces(self, request: Request, most: int) -> AsyncIterator[bytes]:
        """Yields the pieces of a body. Raises ApiProblem (413) for more bytes than that."""
        too_large = ApiProblem(413, f"the body is larger than {most // MIB:,} MiB", code="body_too_large")
        stated, size = request.headers.get("content-length", "0"), 0
        if stated.isdecimal() and int(stated) > most:
            raise too_large
        async for piece in request.stream():
            size += len(piece)
            if size > most:
                raise too_large
            yield piece
