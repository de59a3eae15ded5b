"""How a score is printed."""

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from vidtune.evaluation.score import RunScore, Scores
    from vidtune.evaluation.statistics import Estimate


def print_score(score: "RunScore") -> None:
    """Accuracy and average score with their intervals, overall and by question type, and what is not in them."""
    blind = ", blind (black frames)" if score.blind else ""
    typer.echo(f"{score.benchmark}{blind}: judge {score.judge}, protocol {score.protocol_hash}")
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
