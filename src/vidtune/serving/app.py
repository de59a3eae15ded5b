"""The application: what each address answers."""

import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from sse_starlette import EventSourceResponse

from vidtune import __version__
from vidtune.generation.settings import Answer
from vidtune.serving.media import MediaIntake
from vidtune.serving.messages import media_of, turns_of
from vidtune.serving.problems import ApiProblem
from vidtune.serving.served import ServedModel
from vidtune.serving.wire import chat_request

_REASONS = {"eos": "stop", "stop": "stop", "length": "length"}


def build_app(models: Sequence[ServedModel], intake: MediaIntake) -> FastAPI:
    """Returns the application that serves models.

    Args:
        models: the first is the default; their names differ.
        intake: finds the files of media.
    """
    app = FastAPI(title="vidtune", version=__version__, docs_url=None, redoc_url=None)
    known = {model.name: model for model in models}
    started = int(time.time())

    @app.exception_handler(ApiProblem)
    async def refuse(request: Request, problem: ApiProblem) -> JSONResponse:
        return JSONResponse(problem.body, problem.status, dict(problem.headers))

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse((files("vidtune.serving") / "page" / "index.html").read_text("utf-8"))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(one, started) for one in known.values()]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        return _model(_known(name), started)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Any:
        asked = chat_request(await request.body())
        model = _known(asked.model)
        refs = tuple([await intake.ref(one) for one in media_of(asked.messages)])
        prompt = asked.prompt or model.prompt
        turns = turns_of(asked.messages, model.processor, prompt, "0")
        pieces = model.pieces(turns, refs, asked.settings(secrets.randbits(62)), prompt)
        head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model.name}
        if asked.stream:
            return EventSourceResponse(_events(pieces, head), sep="\n")
        async for piece in pieces:
            last = piece
        assert isinstance(last, Answer)
        message = {"role": "assistant", "content": last.text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": _REASONS[last.finish_reason], "logprobs": None}
        return {**head, "object": "chat.completion", "choices": [choice]}

    def _known(name: str) -> ServedModel:
        if name not in known:
            message = f"the model {name!r} does not exist; known: {', '.join(known)}"
            raise ApiProblem(404, message, code="model_not_found", param="model")
        return known[name]

    return app


async def _events(pieces: AsyncIterator[str | Answer], head: dict[str, Any]) -> AsyncIterator[str]:
    """The answer as server-sent events: a role, pieces of text, the reason of its end, and ``[DONE]``."""

    def chunk(delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return json.dumps({**head, "object": "chat.completion.chunk", "choices": [choice]}, ensure_ascii=False)

    yield chunk({"role": "assistant", "content": ""})
    try:
        async for piece in pieces:
            if isinstance(piece, str):
                yield chunk({"content": piece})
            else:
                yield chunk({}, _REASONS[piece.finish_reason])
    except ApiProblem as problem:
        yield json.dumps(problem.body, ensure_ascii=False)
    yield "[DONE]"


def _model(model: ServedModel, started: int) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": started, "owned_by": "vidtune"}
