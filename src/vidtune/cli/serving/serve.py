"""``vidtune serve``: a chat API in OpenAI's form, and a page, over checkpoints."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vidtune.cli.options.groups import option_groups
from vidtune.cli.options.loading import (
    LayerProgram,
    ModelBase,
    Place,
    Quantize,
    Revision,
    System,
    assignments,
    layer_program_of,
    limit_of,
)

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class LimitOptions:
    """Limits of what clients may ask for."""

    max_body: Annotated[int, typer.Option(min=1, help="MiB of one request.")] = 256
    max_media: Annotated[int, typer.Option(min=1, help="MiB of one medium from a web address.")] = 1024
    max_media_seconds: Annotated[float, typer.Option(callback=limit_of, help="Seconds of one medium.")] = 14400.0
    max_queue: Annotated[int, typer.Option(min=1, help="Requests at a time; beyond it: 429.")] = 256
    max_running: Annotated[int, typer.Option(min=1, help="Answers in the running batch.")] = 64
    timeout: Annotated[float, typer.Option(callback=limit_of, help="Seconds one request may take.")] = 600.0
    media_timeout: Annotated[float, typer.Option(callback=limit_of, help="Seconds one media file may take.")] = 60.0
    kept_memory: Annotated[
        float | None,
        typer.Option(min=0, max=2**20, help="GiB for what is kept of media between questions; default: a quarter."),
    ] = None


@option_groups
def serve(
    checkpoint: Annotated[str, typer.Argument(help="Folder or hub id, in any format that `vidtune systems` lists.")],
    limits: LimitOptions,
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
    revision: Revision = None,
    system: System = None,
    model_base: ModelBase = None,
    device: Annotated[str | None, typer.Option(help="Of torch; default: a GPU when there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: the checkpoint's.")] = None,
    quantize: Quantize = None,
    place: Place = None,
    layer_program: LayerProgram = None,
) -> None:
    """Serve a checkpoint over HTTP: /v1/chat/completions in OpenAI's form, with streaming, and a page at /.

    A signal (Ctrl-C, SIGTERM) ends it: answers in flight are finished; a second one ends it at once.
    """
    from vidtune.errors import UserError

    try:
        from vidtune.serving.app import build_app
        from vidtune.serving.fetch import Fetcher, check_host
        from vidtune.serving.limits import MIB, Limits
        from vidtune.serving.media import MediaIntake
        from vidtune.serving.run import listen, run
        from vidtune.serving.served import ServedModel
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is missing: pip install 'vidtune[serve]'") from None
    import vidtune

    if media_root is not None and not media_root.is_dir():
        raise UserError(f"--media-root {media_root}: is no folder")
    places = {name or checkpoint: checkpoint}
    for further, where in assignments(model, "--model").items():
        if further in places:
            raise UserError(f"--model {further}: is the name of another model")
        places[further] = where
    if unnamed := next((one for one in places if not one.strip() or not one.isprintable()), None):
        raise UserError(f"--name {unnamed!r}: is no name of a model; give letters that print")
    if api_key is not None and not (
        api_key and api_key.isascii() and api_key.isprintable() and api_key == api_key.strip()
    ):
        raise UserError(
            "--api-key: is empty, or holds what no request can carry (a letter beyond ASCII, a blank around it)"
        )
    for allowed_host in allow_host or ():
        check_host(allowed_host)
    socket = listen(host, port)
    allowed = Limits(
        body=limits.max_body * MIB,
        media_bytes=limits.max_media * MIB,
        media_seconds=limits.max_media_seconds,
        queue=limits.max_queue,
        seconds=limits.timeout,
        media_timeout=limits.media_timeout,
    )
    kept = None if limits.kept_memory is None else int(limits.kept_memory * 1024 * MIB)
    served = []
    for number, (called, where) in enumerate(places.items()):
        loaded = vidtune.load(
            where,
            revision=revision if number == 0 else None,
            system=system,
            base=model_base if number == 0 else None,
            device=device,
            dtype=dtype,
            layer_program=layer_program_of(layer_program),
            quantize=quantize,  # type: ignore[arg-type]
            place=assignments(place, "--place"),
            said=partial(typer.echo, err=True),
        )
        for warning in loaded.report.warnings if loaded.report else ():
            typer.echo(f"warning: {called}: {warning}", err=True)
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
    fetcher = Fetcher(allow_host, allowed.media_bytes, limits.media_timeout) if allow_host else None
    hosts = LOOPBACK[:2] if host in LOOPBACK[:2] else ()
    app = build_app(
        served, MediaIntake(media_root, fetcher), allowed, api_key=api_key, hosts=hosts, media_workers=media_workers
    )
    run(app, socket, lambda address: typer.echo(f"serving at {address}", err=True))
