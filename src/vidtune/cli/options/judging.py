"""What ``evaluate`` and ``judge`` share: the options that describe a judge, and printing what judging takes."""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidtune.cli.terminal.shown_text import show_error
from vidtune.errors import UserError

if TYPE_CHECKING:
    from vidtune.evaluation.judges.base import Judge
    from vidtune.evaluation.judges.limits import Prices
    from vidtune.evaluation.outcome import Collected, ScoreSource
    from vidtune.evaluation.runs.folder import RunFolder
    from vidtune.evaluation.scores.score import Score

NO_JUDGE = "none"
CACHE = "judge-replies.jsonl"


def _each(fits: Callable[[Any], bool], expected: str) -> Callable[[Any], Any]:
    """Check of an option: its value, or each of several, fits or is not given."""

    def check(value: Any) -> Any:
        for one in value if isinstance(value, tuple) else (value,):
            if one is not None and not fits(one):
                raise typer.BadParameter(f"{one!r} is no {expected}")
        return value

    return check


AMOUNT = _each(lambda amount: math.isfinite(amount) and amount >= 0, "amount of at least 0")


class Scoring:
    """Scores runs one after the other. Problems of one do not end the others; all are said at the end.

    Once the judge is given up, only runs that metrics score are scored.
    """

    def __init__(self) -> None:
        self.problems: list[UserError] = []
        self.given_up = False

    @contextmanager
    def of_one(self) -> Iterator[None]:
        """Context manager that keeps what is wrong with one run."""
        from vidtune.evaluation.judges.base import JudgingStoppedError

        try:
            yield
        except UserError as error:
            self.problems.append(error)
            self.given_up |= isinstance(error, JudgingStoppedError)

    def goes_on(self, run_dir: Path) -> bool:
        """Whether this run is scored: the judge is not given up, or the run needs none."""
        from vidtune.evaluation.runs.folder import RunFolder
        from vidtune.evaluation.scores.score import METRICS
        from vidtune.evaluation.scores.scoring import source_for

        return not self.given_up or source_for(RunFolder(run_dir)).name == METRICS

    def end(self) -> None:
        """Say every problem; the last one ends the command.

        Raises:
            UserError: there was a problem.
        """
        for problem in self.problems[:-1]:
            show_error(problem)
        if self.problems:
            raise self.problems[-1]


@dataclass(frozen=True)
class JudgeOptions:
    """The options that describe a judge."""

    judge: Annotated[
        str,
        typer.Option(
            "--judge",
            help="rules (offline), or the name of a chat model; evaluate also takes none; "
            "metrics: normalised text, for a test set of your own.",
        ),
    ] = "rules"
    judge_url: Annotated[
        str | None, typer.Option(help="Address of an OpenAI-compatible API; default: OpenAI's, with OPENAI_API_KEY.")
    ] = None
    judge_key: Annotated[
        str | None, typer.Option(metavar="VARIABLE", help="Environment variable that holds the API key.")
    ] = None
    replies: Annotated[
        str | None,
        typer.Option(
            metavar="strict|lenient",
            callback=_each(lambda word: word in ("strict", "lenient"), "way to read replies: strict or lenient"),
            help="Read the replies of a chat judge as published (default), or also others whose meaning is certain.",
        ),
    ] = None
    judge_prices: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="IN OUT",
            callback=AMOUNT,
            help="Price of a million prompt and completion tokens; default: that of a table.",
        ),
    ] = None
    prices: Annotated[
        Path | None,
        typer.Option(
            envvar="VIDTUNE_PRICES", help="Table of prices of your own, read before the shipped one (a YAML list)."
        ),
    ] = None
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget",
            "--judge-max-cost",
            callback=AMOUNT,
            help="End the judging before it has cost more, earlier sessions included, in the currency of the prices.",
        ),
    ] = None
    judge_max_calls: Annotated[int | None, typer.Option(min=0, help="Stop before this many requests.")] = None
    judge_failures: Annotated[
        int, typer.Option(min=0, help="Stop after this many failures of one kind in a row; 0: never.")
    ] = 5
    judge_concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at a time.")] = 8

    def build(self, cache: Path) -> "Judge | str":
        """The judge, or "metrics"; a name that is no offline judge is a chat model's.

        Args:
            cache: file of known replies of chat models.

        Raises:
            UserError: no model can have the name, or no endpoint is given and no key for OpenAI's is set.
        """
        from vidtune.evaluation.judges.address import OPENAI_KEY, is_model_name
        from vidtune.evaluation.judges.openai_compatible import Limits, OpenAICompatibleJudge
        from vidtune.evaluation.scores.score import METRICS
        from vidtune.registry import JUDGES

        if self.judge in (METRICS, *JUDGES):
            if self.replies is not None:
                raise UserError(f"--replies {self.replies}: for chat models; {self.judge!r} gives no replies to read")
            return METRICS if self.judge == METRICS else JUDGES[self.judge]
        if not is_model_name(self.judge):
            raise UserError(f"--judge {self.judge!r}: expected rules, or the name of a chat model")
        key = self.judge_key or OPENAI_KEY
        if self.judge_url is None and not os.environ.get(key):
            raise UserError(
                f"judge {self.judge!r} is a chat model: give --judge-url or set {key}; offline there is 'rules'"
            )
        prices = prices_from(self.judge_prices, self.judge, self.judge_url, self.prices)
        if self.budget is not None and prices is None:
            raise UserError(
                f"--budget {self.budget:g}: no table says what {self.judge!r} costs here: give --judge-prices IN OUT, "
                "or --prices FILE"
            )
        return OpenAICompatibleJudge(
            self.judge,
            base_url=self.judge_url,
            api_key_env=self.judge_key,
            cache=cache,
            limits=Limits(
                concurrency=self.judge_concurrency,
                failures=self.judge_failures or None,
                max_calls=self.judge_max_calls,
                max_cost=self.budget,
            ),
            prices=prices,
            replies=self.replies or "strict",
        )


def prices_from(given: tuple[float, float] | None, model: str, url: str | None, table: Path | None) -> "Prices | None":
    """The prices that the command line names, or those of a table; None: nobody knows them.

    Args:
        url: address of the model's endpoint; None: OpenAI's.
    """
    from vidtune.evaluation.judges.limits import Prices
    from vidtune.evaluation.judges.prices.table import prices_of

    return Prices(*given, source="as given") if given else prices_of(model, url, table)


def count_earlier(judge: "Judge | str", run_dirs: Iterable[Path]) -> None:
    """Let a budget count what the judge has cost in these runs before."""
    from vidtune.evaluation.judges.openai_compatible import OpenAICompatibleJudge
    from vidtune.evaluation.runs.usage import usage_of

    if isinstance(judge, OpenAICompatibleJudge):
        judge.spent += sum(usage_of(run_dir, judge.name).spent for run_dir in run_dirs)


def keep_replies(judge: "Judge | str", cache: Path) -> None:
    """Let a chat judge keep its replies in this file."""
    from vidtune.evaluation.judges.openai_compatible import OpenAICompatibleJudge

    if isinstance(judge, OpenAICompatibleJudge):
        judge.cache = cache


def judge_and_score(run_dir: Path, judge: "Judge | str") -> None:
    """Score a run (see `score_run`), say what judging takes before and what it took after, and print the score."""
    from vidtune.evaluation.scores.scoring import score_run

    score_run(run_dir, judge, steps=_PrintedSteps(judge))


class _PrintedSteps:
    """Prints the steps of `score_run`; a `ScoringSteps`."""

    def __init__(self, judge: "Judge | str") -> None:
        self.judge = judge

    def begins(self, run: "RunFolder", source: "ScoreSource") -> None:
        from vidtune.evaluation.judges.pace import money
        from vidtune.evaluation.scores.score import METRICS

        self.run_dir = run.path
        if source.name == METRICS:
            typer.echo(f"measuring {len(run.predictions())} answers", err=True)
        expected = source.expected()
        if expected.calls:
            tokens = expected.prompt_tokens + expected.completion_tokens
            prices = getattr(self.judge, "prices", None)
            said = f" ({prices.prompt:g} and {prices.completion:g} per million, {prices.source})" if prices else ""
            cost = "" if expected.cost is None else f", cost {money(expected.cost, expected.currency)}{said}"
            typer.echo(f"judging with {source.name}: {expected.calls} requests, about {tokens} tokens{cost}")

    def collected(self, collected: "Collected") -> None:
        from vidtune.evaluation.judges.pace import money
        from vidtune.evaluation.runs.usage import usage_of, usage_words

        judged = collected.summary or collected.stopped
        usage = judged.usage if judged is not None else None
        if usage is None or not usage.calls:
            return
        whole = usage_of(self.run_dir, self.judge if isinstance(self.judge, str) else self.judge.name)
        earlier = f"; cost so far {money(whole.spent, whole.currency)}" if whole.spent > usage.spent else ""
        typer.echo(f"judged: {usage_words(usage)}, {usage.cached} replies known{earlier}")

    def scored(self, score: "Score") -> None:
        typer.echo(score)
