"""The application: what each address answers."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Lifespan

from vidtune import __version__
from vidtune.serving.endpoints.access import Access
from vidtune.serving.endpoints.chat import ChatEndpoint
from vidtune.serving.endpoints.files import add_files
from vidtune.serving.endpoints.metrics import Metrics
from vidtune.serving.frames import FrameReader
from vidtune.serving.limits import Limits, Places
from vidtune.serving.loading import MediaLoader
from vidtune.serving.media import MediaIntake
from vidtune.serving.messages import medium_of
from vidtune.serving.page.response import page_response
from vidtune.serving.problems import ApiProblem
from vidtune.serving.served import ServedModel
from vidtune.serving.wire import FramesRequest, parsed, validated


def build_app(
    models: Sequence[ServedModel],
    intake: MediaIntake,
    limits: Limits | None = None,
    *,
    api_key: str | None = None,
    hosts: Sequence[str] = (),
    media_workers: int = 2,
) -> FastAPI:
    """Returns the application that serves models.

    Args:
        models: their names differ.
        intake: finds the files of media.
        limits: how much a client may ask for.
        api_key: what requests must bring along, except those for the page and ``/health``; None: nothing.
        hosts: names by which the server may be asked, against pages that lead their own name to it; none: any.
        media_workers: processes that read media.
    """
    limits, known = limits or Limits(), {model.name: model for model in models}
    places = Places(limits)
    metrics, access = Metrics(models, places), Access(api_key, hosts)
    app = FastAPI(
        title="vidtune",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_opened(models, intake, limits, media_workers),
        dependencies=[Depends(access.check_host)],
    )
    _add_open_addresses(app, models)
    router = APIRouter(dependencies=[Depends(access.check)])
    find = _add_models(router, known)
    chat = ChatEndpoint(find, intake, places, metrics)

    @router.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await chat(request)

    @router.get("/metrics")
    async def read_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    _add_frames(router, find, intake, places)
    add_files(router, intake.files, places)
    app.include_router(router)
    _answer_problems(app, metrics)
    return app


def _opened(models: Sequence[ServedModel], intake: MediaIntake, limits: Limits, workers: int) -> Lifespan[FastAPI]:
    """Context manager in which the server runs: models are open, and old files of clients go."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loader = MediaLoader(limits, workers)
        for model in models:
            model.open(loader)
        clock = asyncio.create_task(intake.let_old_go())
        try:
            yield
        finally:
            clock.cancel()
            for model in models:
                model.close()
            loader.close()

    return lifespan


def _add_open_addresses(app: FastAPI, models: Sequence[ServedModel]) -> None:
    """Add the addresses that need no key."""

    @app.get("/")
    async def page() -> HTMLResponse:
        return page_response()

    @app.get("/health")
    async def health() -> Response:
        stopped = [model.name for model in models if model.engine.failure is not None]
        return JSONResponse({"status": "failed" if stopped else "ok", "stopped": stopped}, 503 if stopped else 200)


def _add_models(router: APIRouter, known: Mapping[str, ServedModel]) -> Callable[[str], ServedModel]:
    """Add the addresses that tell of models; returns the function that finds one by its name."""
    started = int(time.time())

    def find(name: str) -> ServedModel:
        if name not in known:
            message = f"the model {name!r} does not exist; known: {', '.join(known)}"
            raise ApiProblem(404, message, code="model_not_found", param="model")
        return known[name]

    def facts(model: ServedModel) -> dict[str, Any]:
        head = {"id": model.name, "object": "model", "created": started, "owned_by": "vidtune"}
        return {**head, "vidtune": model.facts}

    @router.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": list(map(facts, known.values()))}

    @router.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        return facts(find(name))

    return find


def _add_frames(router: APIRouter, find: Callable[[str], ServedModel], intake: MediaIntake, places: Places) -> None:
    """Add the address that shows what a model sees of a medium."""
    reader = FrameReader()

    @router.post("/v1/frames")
    async def frames(request: Request) -> dict[str, Any]:
        with places.place():
            body = await places.body(request)
            with places.room(len(body)):
                asked = validated(FramesRequest, parsed(body))
                model = find(asked.model)
                medium = medium_of(asked.medium, "medium")
                if medium is None:
                    raise ApiProblem(400, "medium: is a text; give video_url or image_url", param="medium")
                taken = await intake.take(medium)
                return await reader.frames(model, taken.ref, medium.where)


def _answer_problems(app: FastAPI, metrics: Metrics) -> None:
    """Errors of every kind in OpenAI's form."""

    @app.exception_handler(ApiProblem)
    async def refuse(request: Request, problem: ApiProblem) -> JSONResponse:
        metrics.problems.labels(str(problem.status)).inc()
        closing = {"Connection": "close"} if problem.status in (401, 408, 413, 415, 429, 503, 507) else {}
        return JSONResponse(problem.body, problem.status, {**problem.headers, **closing})

    @app.exception_handler(ClientDisconnect)
    async def nobody(request: Request, left: ClientDisconnect) -> Response:
        return Response(status_code=499)  # which nobody reads

    @app.exception_handler(HTTPException)
    async def refuse_address(request: Request, error: HTTPException) -> JSONResponse:
        problem = ApiProblem(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
        return JSONResponse(problem.body, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def admit(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(ApiProblem(500, f"the server failed: {type(error).__name__}").body, 500)
