import pytest
import torch
from transformers import get_scheduler

from vidtune.training.schedule import learning_rate_factor, warmup_steps


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("total", "ratio"), [(50, 0.03), (7, 0.5), (1, 0.0), (33, 0.1)])
def test_every_rate_equals_that_of_transformers(schedule: str, total: int, ratio: float) -> None:
    warmup = warmup_steps(total, ratio)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    for step in range(total):
        ours = 0.3 * learning_rate_factor(schedule, step, total, warmup)
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_warmup_lasts_the_rounded_up_share_of_the_steps() -> None:
    assert [warmup_steps(total, 0.03) for total in (1, 33, 34, 100)] == [1, 1, 2, 3]


def test_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown schedule 'cosin'"):
        learning_rate_factor("cosin", 0, 10, 0)
