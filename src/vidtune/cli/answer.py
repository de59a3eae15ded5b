"""``vidtune answer``: ask a checkpoint about videos and images."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidtune.cli.options.loading import ModelBase, Towers, assignments

if TYPE_CHECKING:
    from vidtune.data.sample import MediaRef
    from vidtune.systems.base import System


def answer(
    checkpoint: Annotated[str, typer.Argument(help="Folder or hub id, in any format that `vidtune systems` lists.")],
    question: Annotated[
        list[str], typer.Option(help="May be given several times; the media are read and encoded once.")
    ],
    video: Annotated[list[Path] | None, typer.Option(help="Video file or folder of frames; may be repeated.")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="Image file; may be repeated. Images follow videos.")] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STREAM=FILE", help="Extracted features that a stream reads in place of the file; may be repeated."
        ),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(metavar="STREAM", help="Switch a stream off, as audio; may be repeated.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option(min=0, help="Seconds of the video, where there are features of it alone.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per question.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 512,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token; above, tokens are drawn.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the tokens that hold this share of probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the drawing.")] = 42,
    prompt: Annotated[str | None, typer.Option(help="Prompt format; default: the system's for answering.")] = None,
    model_base: ModelBase = None,
    tower: Towers = None,
    tokenizer: Annotated[str | None, typer.Option(help="When the checkpoint's folder holds none.")] = None,
    device: Annotated[str | None, typer.Option(help="Of torch; default: a GPU when there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: the checkpoint's.")] = None,
    media_timeout: Annotated[float, typer.Option(help="Seconds one media file may take.")] = 60.0,
) -> None:
    """Answer questions about videos and images; all questions share the media.

    What else a system hears in a video is read from the same file. Moments in an answer are shown in seconds too.
    """
    from vidtune.checkpoints.checkpoints import load_checkpoint
    from vidtune.cli.options.compute import pick_device, pick_dtype
    from vidtune.errors import UserError
    from vidtune.generation.engine import AnswerEngine
    from vidtune.generation.settings import GenerationSettings, Request
    from vidtune.processing.times import with_seconds
    from vidtune.registry import SYSTEMS

    given = {"video": video or [], "image": image or []}
    if absent := next((path for paths in given.values() for path in paths if not path.exists()), None):
        raise UserError(f"{absent}: no such file")
    stand_in = assignments(features, "--features")
    settings = GenerationSettings(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )
    loaded = load_checkpoint(
        checkpoint,
        base=model_base,
        towers=assignments(tower, "--tower"),
        tokenizer=tokenizer,
        dtype=pick_dtype(dtype),
        device=pick_device(device),
    )
    for warning in loaded.report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    system = SYSTEMS[loaded.processor.system]
    media = _media(given, stand_in, system)
    processor = loaded.processor.without({*(without or ()), *_unread(media)})
    seconds = _duration(media, duration) if system.dialect.times else None
    requests = [Request(str(number), media, text) for number, text in enumerate(question)]
    prompt = prompt or system.dialect.answering_prompt
    with AnswerEngine(loaded.model, processor, settings, prompt=prompt, media_timeout=media_timeout) as engine:
        for reply in engine.answer(requests):
            if reply.error is not None:
                raise UserError(reply.error)
            asked = question[int(reply.id)]
            if as_json:
                record = {"question": asked, "answer": reply.text, "finish_reason": reply.finish_reason}
                record |= _spans(reply.text, seconds, system.dialect.times)
                typer.echo(json.dumps(record, ensure_ascii=False))
                continue
            text = (
                with_seconds(reply.text, seconds, system.dialect.times)
                if seconds and system.dialect.times
                else reply.text
            )
            typer.echo(f"{asked}\n  {text}" if len(question) > 1 else text)


def _media(
    given: Mapping[str, Sequence[Path]], features: Mapping[str, str], system: "System"
) -> "tuple[MediaRef, ...]":
    """The files by stream, in this order, each with the features that stand in for it.

    Raises:
        UserError: features of no known kind, or of several files.
    """
    from vidtune.data.sample import MediaRef
    from vidtune.errors import UserError
    from vidtune.media.feature_file import FEATURE_SUFFIXES, is_feature_file

    files = {stream: [str(path.resolve()) for path in paths] for stream, paths in given.items()}
    owners = {companion: owner for owner, companions in system.dialect.companions.items() for companion in companions}
    found: dict[str, list[tuple[str, str]]] = {}
    for stream, path in features.items():
        if not Path(path).is_file():
            raise UserError(f"--features {stream}: {path}: no such file")
        if not is_feature_file(path):
            raise UserError(f"--features {stream}: {path}: features are read from {', '.join(FEATURE_SUFFIXES)}")
        found.setdefault(owners.get(stream, stream), []).append((stream, str(Path(path).resolve())))
    refs = []
    for stream in dict.fromkeys((*files, *found)):
        paths, stand_in = files.get(stream, []), tuple(found.get(stream, ()))
        if stand_in and len(paths) > 1:
            raise UserError(f"--features {stand_in[0][0]}: can stand in for one {stream} file only, not {len(paths)}")
        refs += [MediaRef(stream, path, stand_in) for path in paths or ([""] if stand_in else [])]
    return tuple(refs)


def _unread(media: "Sequence[MediaRef]") -> set[str]:
    """Streams of which there is neither a file nor features, only companions' features."""
    return {ref.stream for ref in media if ref.read_by(ref.stream) is None}


def _duration(media: "Sequence[MediaRef]", told: float | None) -> float | None:
    """Seconds that answers about the media are timed by; None where there is not one file that has them."""
    from vidtune.media.probe import probe

    if told is not None:
        return told
    timed = [seconds for ref in media if ref.path and (seconds := probe(ref.path).duration) > 0]
    return timed[0] if len(timed) == 1 else None


def _spans(text: str, duration: float | None, rule: str | None) -> dict[str, Any]:
    """Stretches of time that an answer names, in seconds."""
    from vidtune.processing.times import spans_in_text

    if duration is None or rule is None:
        return {}
    spans = spans_in_text(text, duration, rule)
    return {"duration": round(duration, 2), "spans": [[round(start, 2), round(end, 2)] for start, end in spans]}
