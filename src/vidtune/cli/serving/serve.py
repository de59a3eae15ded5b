"""``vidtune serve``: a chat API in OpenAI's form, and a page, over checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

from vidtune.cli.options.loading import limit_of


def serve(
    checkpoint: Annotated[str, typer.Argument(help="Folder or hub id, in any format that `vidtune systems` lists.")],
    host: Annotated[str, typer.Option(help="Address at which the server listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8000,
    name: Annotated[str | None, typer.Option(help="Name of the model; default: the checkpoint as given.")] = None,
    media_root: Annotated[Path | None, typer.Option(help="Folder whose files requests may name.")] = None,
    device: Annotated[str | None, typer.Option(help="Of torch; default: a GPU when there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: the checkpoint's.")] = None,
    media_timeout: Annotated[float, typer.Option(callback=limit_of, help="Seconds one media file may take.")] = 60.0,
) -> None:
    """Serve a checkpoint over HTTP: /v1/chat/completions in OpenAI's form, with streaming, and a page at /."""
    import vidtune
    from vidtune.errors import UserError

    try:
        from vidtune.serving.app import build_app
        from vidtune.serving.media import MediaIntake
        from vidtune.serving.run import run
        from vidtune.serving.served import ServedModel
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is missing: pip install 'vidtune[serve]'") from None
    model = vidtune.load(checkpoint, device=device, dtype=dtype)
    served = ServedModel(name or checkpoint, model.network, model.processor, media_timeout)
    typer.echo(f"http://{host}:{port}/", err=True)
    run(build_app([served], MediaIntake(media_root)), host, port)
