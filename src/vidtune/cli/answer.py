"""``vidtune answer``: ask a checkpoint about videos and images."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidtune.cli.options.asking import DecodingOptions, LoadingOptions
from vidtune.cli.options.groups import option_groups
from vidtune.cli.options.loading import Store, assignments, limit_of
from vidtune.cli.options.reading import ReadingOptions
from vidtune.cli.options.target import TargetOptions
from vidtune.machine.memory import uncollected
from vidtune.machine.workers import prepare

if TYPE_CHECKING:
    from vidtune.api.reply import Reply


_EMPTY = {
    "eos": "the model ended it before the first word",
    "stop": "the text that ends answers came first",
    "length": "no word was complete within --max-new-tokens",
}
"""Why an answer is empty, by what ended it."""


@option_groups
def answer(
    checkpoint: Annotated[str, typer.Argument(help="Folder or hub id, in any format that `vidtune systems` lists.")],
    question: Annotated[
        list[str], typer.Option(help="May be given several times; the media are read and encoded once.")
    ],
    about: TargetOptions,
    reading: ReadingOptions,
    decoding: DecodingOptions,
    loading: LoadingOptions,
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
    prompt: Annotated[str | None, typer.Option(help="Prompt format; default: the system's for answering.")] = None,
    media_timeout: Annotated[float, typer.Option(callback=limit_of, help="Seconds one media file may take.")] = 60.0,
    store: Store = None,
) -> None:
    """Answer questions about videos and images; all questions share the media.

    Streams that accompany a video, such as its sound, are read from the same file. Moments in an answer are printed in
    seconds too.
    """
    if video or image:
        prepare("vidtune.media.worker")  # beside the imports and the loading of the model
    with uncollected():
        from vidtune.processing.asked_media import require_files

    reading.build()
    settings = decoding.given()
    require_files({"video": video or [], "image": image or []})
    target = about.build(video or [], media_timeout)
    model = loading.load(checkpoint)
    if about.tracker is not None:
        typer.echo(f"following the box with the tracker {about.tracker}", err=True)
    located = None if target is None else model.follow(target, video=video, media_timeout=media_timeout)
    replies = model.answer(
        question,
        video=video,
        image=image,
        target=located,
        features=assignments(features, "--features"),
        without=without or (),
        **reading.given(),
        duration=duration,
        prompt=prompt,
        media_timeout=media_timeout,
        store=store,
        **settings,
    )
    if untrained := next((reply.untrained for reply in replies if reply.untrained), None):
        typer.echo(f"untrained length: {untrained}", err=True)
    for reply in replies:
        if not reply:
            typer.echo(f"the answer to {reply.question!r} is empty: {_EMPTY[reply.finish_reason]}", err=True)
        if as_json:
            typer.echo(json.dumps(_record(reply), ensure_ascii=False))
        else:
            text = reply.with_seconds()
            typer.echo(below(reply.question, text) if len(question) > 1 else text)
    if about.draw is not None and located is not None:
        model.draw(about.draw, target=located)
        typer.echo(f"drawn: {about.draw}", err=True)


def below(question: str, text: str) -> str:
    """Returns an answer under its question, all lines of it indented."""
    return "\n  ".join((question, *text.split("\n")))


def _record(reply: "Reply") -> dict[str, Any]:
    record: dict[str, Any] = {"question": reply.question, "answer": str(reply), "finish_reason": reply.finish_reason}
    if reply.untrained:
        record["untrained_length"] = reply.untrained
    if reply.duration is None:
        return record
    spans = [[round(start, 2), round(end, 2)] for start, end in reply.spans]
    return {**record, "duration": round(reply.duration, 2), "spans": spans}
