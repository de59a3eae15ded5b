"""``vidtune serve``: a chat API in OpenAI's form, and a page, over checkpoints."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidtune.cli.options.asking import LoadingOptions
from vidtune.cli.options.groups import option_groups
from vidtune.cli.options.loading import assignments, limit_of
from vidtune.errors import UserError
from vidtune.machine.memory import uncollected
from vidtune.machine.workers import prepare

if TYPE_CHECKING:
    from vidtune.api.model import Model
    from vidtune.serving.limits import Limits

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_OF_THE_FIRST = ("revision", "base", "towers", "tokenizer")
"""What completes the checkpoint of the command is not for the further ones."""


@dataclass(frozen=True)
class LimitOptions:
    """Limits of what clients may ask for."""

    max_body: Annotated[int, typer.Option(min=1, help="MiB of one request.")] = 256
    max_media: Annotated[int, typer.Option(min=1, help="MiB of one medium that is sent as a file or fetched.")] = 1024
    max_media_seconds: Annotated[float, typer.Option(callback=limit_of, help="Seconds of one medium.")] = 14400.0
    max_queue: Annotated[int, typer.Option(min=1, help="Requests at a time; beyond it: 429.")] = 256
    max_running: Annotated[int, typer.Option(min=1, help="Answers in the running batch.")] = 64
    timeout: Annotated[float, typer.Option(callback=limit_of, help="Seconds one request may take.")] = 600.0
    media_timeout: Annotated[float, typer.Option(callback=limit_of, help="Seconds one media file may take.")] = 60.0
    kept_memory: Annotated[
        float | None,
        typer.Option(min=0, max=2**20, help="GiB for what is kept of media between questions; default: a quarter."),
    ] = None
    files: Annotated[
        float, typer.Option(min=0, max=2**20, help="GiB on disk for files that are sent before they are asked about.")
    ] = 4.0
    file_age: Annotated[
        float,
        typer.Option(callback=limit_of, help="Seconds after which a file of a client goes that nobody asked about."),
    ] = 86400.0

    def build(self) -> "Limits":
        """The limits in the units of the server."""
        from vidtune.serving.limits import MIB, Limits

        return Limits(
            body=self.max_body * MIB,
            media_bytes=self.max_media * MIB,
            media_seconds=self.max_media_seconds,
            queue=self.max_queue,
            seconds=self.timeout,
            media_timeout=self.media_timeout,
            files_bytes=int(self.files * 1024 * MIB),
            files_seconds=self.file_age,
        )


@option_groups
def serve(
    checkpoint: Annotated[str, typer.Argument(help="Folder or hub id, in any format that `vidtune systems` lists.")],
    limits: LimitOptions,
    loading: LoadingOptions,
    host: Annotated[str, typer.Option(help="Address at which the server listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8000,
    name: Annotated[str | None, typer.Option(help="Name of the model; default: the checkpoint as given.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=CHECKPOINT", help="A further model or adapter; may be repeated."),
    ] = None,
    media_root: Annotated[Path | None, typer.Option(help="Folder whose files requests may name.")] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Host from which web addresses are fetched, as example.org or *.example.org; may be repeated."
        ),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="VIDTUNE_API_KEY", help="Key that requests must bring along; default: none.")
    ] = None,
    media_workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that read media.")] = 2,
) -> None:
    """Serve a checkpoint over HTTP: /v1/chat/completions in OpenAI's form, with streaming, and a page at /.

    A signal (Ctrl-C, SIGTERM) ends it: answers in flight are finished; a second one ends it at once.
    """
    prepare("vidtune.media.worker")  # beside the imports and the loading of the models
    try:
        with uncollected():
            from vidtune.serving.app import build_app
            from vidtune.serving.files.fetch import Fetcher, check_host
            from vidtune.serving.limits import MIB
            from vidtune.serving.media import MediaIntake
            from vidtune.serving.run import listen, run
            from vidtune.serving.served import ServedModel
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is missing: pip install 'vidtune[serve]'") from None

    if media_root is not None and not media_root.is_dir():
        raise UserError(f"--media-root {media_root}: is no folder")
    places = _named(checkpoint, name, model)
    _check_key(api_key)
    for allowed_host in allow_host or ():
        check_host(allowed_host)
    socket = listen(host, port)
    kept = None if limits.kept_memory is None else int(limits.kept_memory * 1024 * MIB)
    models: dict[str, Model] = {}
    for called, where in places.items():
        without, beside = _OF_THE_FIRST if models else (), list(models.values())
        models[called] = loading.load(where, name=called, without=without, beside=beside)
    served = []
    for called, loaded in models.items():
        served.append(
            ServedModel(
                called,
                loaded.network,
                loaded.processor,
                media_timeout=limits.media_timeout,
                max_running=limits.max_running,
                max_kept=None if kept is None else kept // len(places),
            )
        )
    allowed = limits.build()
    fetcher = Fetcher(allow_host, allowed.media_bytes, limits.media_timeout) if allow_host else None
    hosts = LOOPBACK[:2] if host in LOOPBACK[:2] else ()
    intake = MediaIntake(media_root, fetcher, allowed)
    app = build_app(served, intake, allowed, api_key=api_key, hosts=hosts, media_workers=media_workers)
    run(app, socket, lambda address: typer.echo(f"serving at {address}", err=True))


def _named(checkpoint: str, name: str | None, further: list[str] | None) -> dict[str, str]:
    """Checkpoints by the names under which they are served. Raises UserError for a name that cannot be one."""
    places = {name or checkpoint: checkpoint}
    for called, where in assignments(further, "--model").items():
        if called in places:
            raise UserError(f"--model {called}: is the name of another model")
        places[called] = where
    if unnamed := next((one for one in places if not one.strip() or not one.isprintable()), None):
        raise UserError(f"--name {unnamed!r}: is no name of a model; give letters that print")
    return places


def _check_key(key: str | None) -> None:
    """Raise UserError for a key that no request can carry."""
    if key is not None and not (key and key.isascii() and key.isprintable() and key == key.strip()):
        raise UserError(
            "--api-key: is empty, or holds what no request can carry (a letter beyond ASCII, a blank around it)"
        )
