"""``vidtune chat``: a conversation about videos and images in a terminal."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from vidtune.cli.options.groups import option_groups
from vidtune.cli.options.loading import (
    LayerProgram,
    ModelBase,
    Place,
    Quantize,
    Revision,
    System,
    Towers,
    assignments,
    layer_program_of,
    limit_of,
)
from vidtune.cli.options.reading import ReadingOptions


@option_groups
def chat(
    checkpoint: Annotated[str, typer.Argument(help="Folder or hub id, in any format that `vidtune systems` lists.")],
    reading: ReadingOptions,
    video: Annotated[list[Path] | None, typer.Option(help="Video file or folder of frames; may be repeated.")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="Image file; may be repeated. Images follow videos.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token; above, tokens are drawn.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the tokens that hold this share of probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the drawing.")] = 42,
    prompt: Annotated[str | None, typer.Option(help="Prompt format; default: the system's for answering.")] = None,
    revision: Revision = None,
    system: System = None,
    model_base: ModelBase = None,
    tower: Towers = None,
    tokenizer: Annotated[str | None, typer.Option(help="When the checkpoint's folder holds none.")] = None,
    device: Annotated[str | None, typer.Option(help="Of torch; default: a GPU when there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: the checkpoint's.")] = None,
    quantize: Quantize = None,
    place: Place = None,
    layer_program: LayerProgram = None,
    media_timeout: Annotated[float, typer.Option(callback=limit_of, help="Seconds one media file may take.")] = 60.0,
) -> None:
    """Talk with a checkpoint about videos and images; /help lists the commands. Each line of a pipe is one turn."""
    import vidtune
    from vidtune.cli.terminal.talking import Talk, converse
    from vidtune.generation.settings import GenerationSettings
    from vidtune.processing.asked_media import require_files

    reading.build()
    GenerationSettings(max_new_tokens, do_sample=temperature > 0, temperature=temperature, top_p=top_p, seed=seed)
    require_files({"video": video or [], "image": image or []})
    model = vidtune.load(
        checkpoint,
        revision=revision,
        system=system,
        base=model_base,
        towers=assignments(tower, "--tower"),
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
        layer_program=layer_program_of(layer_program),
        quantize=quantize,  # type: ignore[arg-type]
        place=assignments(place, "--place"),
        said=partial(typer.echo, err=True),
    )
    for warning in model.report.warnings if model.report else ():
        typer.echo(f"warning: {warning}", err=True)
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
    options |= {"seed": seed, "prompt": prompt, **reading.given()}
    if sys.stdin.isatty():
        typer.echo("/help lists the commands, Ctrl-D leaves", err=True)
    if not converse(Talk(model, video or [], image or [], options, media_timeout)):
        raise typer.Exit(0 if sys.stdin.isatty() else 2)
