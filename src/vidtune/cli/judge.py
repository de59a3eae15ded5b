"""``vidtune judge``: judge stored predictions again, with another judge or after a failure."""

from pathlib import Path
from typing import Annotated

import typer

from vidtune.cli.judging import (
    CACHE,
    JudgeConcurrency,
    JudgeKey,
    JudgeMaxCalls,
    JudgeMaxCost,
    JudgeName,
    JudgePrices,
    JudgeUrl,
    build_judge,
    judge_and_score,
)


def judge(
    run: Annotated[list[Path], typer.Argument(help="Folder of one evaluation, OUT/BENCHMARK; may be repeated.")],
    name: JudgeName = "rules",
    judge_url: JudgeUrl = None,
    judge_key: JudgeKey = None,
    judge_prices: JudgePrices = None,
    judge_max_cost: JudgeMaxCost = None,
    judge_max_calls: JudgeMaxCalls = None,
    judge_concurrency: JudgeConcurrency = 8,
) -> None:
    """Judge the stored predictions of RUN and print the scores; judgements that are there are not asked for again."""
    for folder in run:
        chosen = build_judge(
            name,
            folder.parent / CACHE,
            judge_url,
            judge_key,
            judge_prices,
            judge_max_cost,
            judge_max_calls,
            judge_concurrency,
        )
        judge_and_score(folder, chosen)
