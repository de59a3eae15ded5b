"""How a score is printed."""

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from vidtune.evaluation.measuring import MetricScore, Task
    from vidtune.evaluation.score import AnyScore, RunScore, Scores
    from vidtune.evaluation.statistics import Estimate


def print_score(score: "AnyScore") -> None:
    """The numbers of a run with their intervals, and what is not in them."""
    from vidtune.evaluation.measuring import MetricScore

    if isinstance(score, MetricScore):
        _print_metrics(score)
    else:
        _print_judged(score)


def _print_judged(score: "RunScore") -> None:
    """Accuracy and average score, overall and by question type."""
    blind = ", blind (black frames)" if score.blind else ""
    without = f", without {', '.join(score.without)}" if score.without else ""
    typer.echo(f"{score.benchmark}{blind}{without}: judge {score.judge}, protocol {score.protocol_hash}")
    overall = score.overall
    typer.echo(f"  accuracy       {estimate_text(overall.accuracy)}  {overall.yes} of {overall.yes + overall.no} right")
    typer.echo(f"  average score  {estimate_text(overall.average_score)}  of 5")
    left_out = _left_out(overall, score.unanswered)
    if left_out:
        typer.echo(f"  not counted    {left_out}; with these as wrong: {estimate_text(overall.strict_accuracy)}")
    for kind, scores in score.by_type.items():
        typer.echo(f"  {kind:14} {estimate_text(scores.accuracy)}  {scores.yes} of {scores.yes + scores.no}")
    if overall.reason:
        typer.echo(f"  no accuracy: {overall.reason}")


def _print_metrics(score: "MetricScore") -> None:
    """Every metric by task, in percent, with the strict value where it is another one."""
    blind = ", blind (black frames, silence)" if score.blind else ""
    without = f", without {', '.join(score.without)}" if score.without else ""
    typer.echo(f"{score.benchmark}{blind}{without}: metrics in %, protocol {score.protocol_hash}")
    for task in score.tasks:
        typer.echo(f"  {task.type}: {_coverage(task)}")
        for metric in task.metrics:
            if metric.name in score.left_out:
                continue
            strict = ""
            if metric.official and metric.strict and metric.strict.value != metric.official.value:
                strict = f"  strict {estimate_text(metric.strict)}"
            typer.echo(f"    {metric.name:12} {estimate_text(metric.official)}{strict}")
    for reason, names in _by_reason(score).items():
        typer.echo(f"  left out: {', '.join(names)}: {reason}")


def _coverage(task: "Task") -> str:
    """For example ``38 of 40 answered, 8 videos; 2 without video``."""
    counts = {
        "without video": task.missing,
        "failed": task.errors,
        "not asked yet": task.unanswered,
        "answers not of the form asked for": task.unread,
    }
    notes = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"{task.answered} of {task.questions} answered, {task.videos} videos{'; ' if notes else ''}{notes}"


def _by_reason(score: "MetricScore") -> dict[str, list[str]]:
    """Metrics that could not be computed, by why."""
    names: dict[str, list[str]] = {}
    for name, reason in score.left_out.items():
        names.setdefault(reason, []).append(name)
    return names


def estimate_text(estimate: "Estimate | None") -> str:
    """For example ``0.81 [0.74, 0.88]``."""
    if estimate is None:
        return "none"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f} [one video: no interval]"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _left_out(scores: "Scores", unanswered: int) -> str:
    counts = {
        "without video": scores.missing,
        "failed": scores.errors,
        "unjudged": scores.unjudged,
        "not asked yet": unanswered,
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)
