"""``/v1/files``: files that are sent once, before they are asked about, in the form of OpenAI's API."""

from typing import Any

from fastapi import APIRouter, Request

from vidtune.serving.files.form import boundary_of, read_form
from vidtune.serving.files.stored import StoredFiles
from vidtune.serving.limits import MIB, Places
from vidtune.serving.problems import ApiProblem

_FORM = MIB
"""Bytes of a form beside its file."""
_MOST_NAME = 255


def add_files(router: APIRouter, files: StoredFiles, places: Places) -> None:
    """Add the addresses of files to a router. Files are not listed: who has an id may use its file."""

    @router.post("/v1/files")
    async def send(request: Request) -> dict[str, Any]:
        boundary = boundary_of(request.headers.get("content-type", ""))
        with places.place(), files.arriving() as arrival:
            async with places.in_time(most := places.limits.media_bytes + _FORM):
                name, fields = await read_form(places.pieces(request, most), boundary, arrival.take)
            if unknown := next((field for field in fields if field not in ("purpose", *_EXPIRY)), None):
                raise ApiProblem(400, f"unknown key {unknown[:80]!r}", code="unknown_parameter", param=unknown[:80])
            return arrival.keep(name[:_MOST_NAME], fields.get("purpose", "user_data")[:_MOST_NAME]).facts

    @router.get("/v1/files/{id}")
    async def tell(id: str) -> dict[str, Any]:
        return files.find(id).facts

    @router.delete("/v1/files/{id}")
    async def remove(id: str) -> dict[str, Any]:
        files.remove(id)
        return {"id": id, "object": "file", "deleted": True}


_EXPIRY = ("expires_after[anchor]", "expires_after[seconds]")
"""Of OpenAI's API; changes nothing: files go after the time of the server."""
