"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to resume.

The formulas are those of transformers' ``get_cosine_schedule_with_warmup`` and its siblings: the first step of a
warm-up has rate zero, and the warm-up lasts ``ceil(ratio * steps)`` steps.
"""

import math

SCHEDULES = ("constant", "cosine", "linear")


def warmup_steps(total: int, ratio: float) -> int:
    """Returns the number of warm-up steps in a stage of ``total`` optimizer steps."""
    return math.ceil(total * ratio)


def learning_rate_factor(schedule: str, step: int, total: int, warmup: int) -> float:
    """Returns the factor by which the peak learning rate is multiplied in one step.

    Args:
        schedule: one of ``SCHEDULES``.
        step: 0 for the stage's first optimizer step.
        total: number of optimizer steps of the stage.
        warmup: number of steps that warm up linearly from zero.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}, choose one of {', '.join(SCHEDULES)}")
    if step < warmup:
        return step / max(1, warmup)
    if schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, total - warmup)
    if schedule == "linear":
        return max(0.0, 1.0 - progress)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
