"""``vidtune answer``: ask a checkpoint about videos and images."""

import json
from pathlib import Path
from typing import Annotated

import typer


def answer(
    checkpoint: Annotated[str, typer.Argument(help="Folder or hub id, in any format that `vidtune systems` lists.")],
    question: Annotated[
        list[str], typer.Option(help="May be given several times; the media are read and encoded once.")
    ],
    video: Annotated[list[Path] | None, typer.Option(help="Video file or folder of frames; may be repeated.")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="Image file; may be repeated. Images follow videos.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per question.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 512,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token; above, tokens are drawn.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the tokens that hold this share of probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the drawing.")] = 42,
    prompt: Annotated[str | None, typer.Option(help="Prompt format; default: the system's for answering.")] = None,
    model_base: Annotated[
        str | None,
        typer.Option(help="Language model of a checkpoint without one; where the base of a LoRA result has moved to."),
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="When the checkpoint's folder holds none.")] = None,
    device: Annotated[str | None, typer.Option(help="Of torch; default: a GPU when there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: the checkpoint's.")] = None,
    media_timeout: Annotated[float, typer.Option(help="Seconds one media file may take.")] = 60.0,
) -> None:
    """Answer questions about videos and images; all questions share the media."""
    from vidtune.cli.compute import pick_device, pick_dtype
    from vidtune.data.sample import MediaRef
    from vidtune.errors import UserError
    from vidtune.generation.engine import AnswerEngine
    from vidtune.generation.settings import GenerationSettings, Request
    from vidtune.models.checkpoints import load_checkpoint
    from vidtune.systems import get_system

    files = [("video", path) for path in video or ()] + [("image", path) for path in image or ()]
    if absent := next((path for _, path in files if not path.exists()), None):
        raise UserError(f"{absent}: no such file")
    settings = GenerationSettings(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )
    loaded = load_checkpoint(
        checkpoint, base=model_base, tokenizer=tokenizer, dtype=pick_dtype(dtype), device=pick_device(device)
    )
    for warning in loaded.report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    media = tuple(MediaRef(stream, str(path.resolve())) for stream, path in files)
    requests = [Request(str(number), media, text) for number, text in enumerate(question)]
    prompt = prompt or get_system(loaded.processor.system).answering_prompt
    with AnswerEngine(loaded.model, loaded.processor, settings, prompt=prompt, media_timeout=media_timeout) as engine:
        for reply in engine.answer(requests):
            if reply.error is not None:
                raise UserError(reply.error)
            asked = question[int(reply.id)]
            if as_json:
                record = {"question": asked, "answer": reply.text, "finish_reason": reply.finish_reason}
                typer.echo(json.dumps(record, ensure_ascii=False))
            elif len(question) > 1:
                typer.echo(f"{asked}\n  {reply.text}")
            else:
                typer.echo(reply.text)
