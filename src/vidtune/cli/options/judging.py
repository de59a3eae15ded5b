"""What ``evaluate`` and ``judge`` share: the options that describe a judge, and printing what judging takes."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidtune.errors import UserError

if TYPE_CHECKING:
    from vidtune.evaluation.judges.base import Judge, JudgingSummary

NO_JUDGE = "none"
CACHE = "judge-replies.jsonl"

JudgeName = Annotated[
    str, typer.Option("--judge", help="rules (offline), or the name of a chat model; evaluate also takes none.")
]
JudgeUrl = Annotated[
    str | None, typer.Option(help="Address of an OpenAI-compatible API; default: OpenAI's, with OPENAI_API_KEY.")
]
JudgeKey = Annotated[str | None, typer.Option(metavar="VARIABLE", help="Environment variable that holds the API key.")]
JudgePrices = Annotated[
    tuple[float, float] | None,
    typer.Option(metavar="IN OUT", help="Price of a million prompt and completion tokens, to show the cost."),
]
JudgeMaxCost = Annotated[float | None, typer.Option(help="Stop before this cost, in the currency of the prices.")]
JudgeMaxCalls = Annotated[int | None, typer.Option(help="Stop before this many requests.")]
JudgeConcurrency = Annotated[int, typer.Option(help="Requests under way at a time.")]


def build_judge(
    name: str,
    cache: Path,
    url: str | None,
    key: str | None,
    prices: tuple[float, float] | None,
    max_cost: float | None,
    max_calls: int | None,
    concurrency: int,
) -> "Judge":
    """The judge that the options describe; a name that is no offline judge is a chat model's.

    Raises:
        UserError: no endpoint is given and no key for OpenAI's is set.
    """
    from vidtune.evaluation.judges.openai_compatible import OPENAI_KEY, Limits, OpenAICompatibleJudge, Prices
    from vidtune.registry import JUDGES

    if name in JUDGES:
        return JUDGES[name]
    if url is None and not os.environ.get(key or OPENAI_KEY):
        raise UserError(
            f"judge {name!r} is a chat model: give --judge-url or set {key or OPENAI_KEY}; offline there is 'rules'"
        )
    return OpenAICompatibleJudge(
        name,
        base_url=url,
        api_key_env=key,
        cache=cache,
        limits=Limits(concurrency=concurrency, max_calls=max_calls, max_cost=max_cost),
        prices=Prices(*prices) if prices else None,
    )


def judge_and_score(run_dir: Path, judge: "Judge") -> None:
    """Judge a run, say what it takes before and what it took after, and print the scores.

    A run of a benchmark that metrics score is measured again instead, whoever the judge is.
    """
    from vidtune.cli.options.score_lines import print_score
    from vidtune.evaluation.runs.folder import RunFolder
    from vidtune.evaluation.score import METRICS
    from vidtune.evaluation.scoring import score_collected, source_for

    run = RunFolder(run_dir)
    source = source_for(run, judge)
    if source.name == METRICS:
        typer.echo(f"measuring {len(run.predictions())} answers", err=True)
    expected = source.expected()
    if expected.calls:
        tokens = expected.prompt_tokens + expected.completion_tokens
        typer.echo(
            f"judging with {source.name}: {expected.calls} requests, about {tokens} tokens{_cost(expected.cost)}"
        )
    collected = source.collect(progress=True)
    if collected.summary is not None:
        _say_what_it_took(collected.summary)
    print_score(score_collected(run, source, collected))


def _say_what_it_took(summary: "JudgingSummary") -> None:
    usage = summary.usage
    if usage.calls:
        tokens = usage.prompt_tokens + usage.completion_tokens
        typer.echo(f"judged: {usage.calls} requests, {tokens} tokens{_cost(usage.cost)}, {usage.cached} replies known")
    for reason, count in summary.reasons.items():
        typer.echo(f"unjudged: {count} answers: {reason}", err=True)


def _cost(cost: float | None) -> str:
    return "" if cost is None else f", cost {cost:.2f}"
