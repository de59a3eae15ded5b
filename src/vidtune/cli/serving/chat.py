"""``vidtune chat``: a conversation about videos and images in a terminal."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from vidtune.cli.options.asking import DecodingOptions, LoadingOptions
from vidtune.cli.options.groups import option_groups
from vidtune.cli.options.loading import limit_of
from vidtune.cli.options.reading import ReadingOptions
from vidtune.machine.memory import uncollected
from vidtune.machine.workers import prepare


@option_groups
def chat(
    checkpoint: Annotated[str, typer.Argument(help="Folder or hub id, in any format that `vidtune systems` lists.")],
    reading: ReadingOptions,
    decoding: DecodingOptions,
    loading: LoadingOptions,
    video: Annotated[list[Path] | None, typer.Option(help="Video file or folder of frames; may be repeated.")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="Image file; may be repeated. Images follow videos.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Prompt format; default: the system's for answering.")] = None,
    media_timeout: Annotated[float, typer.Option(callback=limit_of, help="Seconds one media file may take.")] = 60.0,
) -> None:
    """Talk with a checkpoint about videos and images; /help lists the commands. Each line of a pipe is one turn."""
    prepare("vidtune.media.worker")  # beside the imports and the loading of the model
    with uncollected():
        from vidtune.cli.serving.talking import Talk, converse
        from vidtune.processing.asked_media import require_files

    reading.build()
    options = {**decoding.given(), "prompt": prompt, **reading.given()}
    require_files({"video": video or [], "image": image or []})
    model = loading.load(checkpoint)
    if sys.stdin.isatty():
        typer.echo("/help lists the commands, Ctrl-D leaves", err=True)
    if not converse(Talk(model, video or [], image or [], options, media_timeout)):
        raise typer.Exit(0 if sys.stdin.isatty() else 2)
