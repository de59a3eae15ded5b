"""Parts that a call has registered, in worker processes."""

import numpy as np
import pytest
import torch
from synthetic_clips import write_clip

import vidtune
from vidtune.errors import UserError
from vidtune.media.pool import LoadJob, MediaPool
from vidtune.media.preprocessing.frame_sampling import SamplingRule
from vidtune.media.preprocessing.resize_rules import ResizeRule
from vidtune.media.preprocessing.resize_to_square import VideoPreprocessing
from vidtune.registry import RESIZE_RULES, SAMPLING_RULES


def last_frames(total, count, fps):
    return list(range(total))[-count:]


def corner(pixels, settings):
    return torch.from_numpy(pixels[:, : settings.size, : settings.size]).permute(3, 0, 1, 2) / 255.0


@pytest.fixture
def clips(tmp_path):
    vidtune.register_rule("sampling.last", SamplingRule(last_frames, repeats=False))
    vidtune.register_rule("resize.corner", ResizeRule(corner))
    vidtune.register_rule("sampling.unreachable", SamplingRule(lambda total, count, fps: [0], repeats=False))
    write_clip(tmp_path / "a.mp4", num_frames=6)
    yield str(tmp_path / "a.mp4")
    for registry, name in ((SAMPLING_RULES, "last"), (RESIZE_RULES, "corner"), (SAMPLING_RULES, "unreachable")):
        registry.unregister(name)


def test_workers_know_the_parts_that_their_jobs_use(clips):
    jobs = [LoadJob(clips, VideoPreprocessing(size=16, num_frames=2, sampling="last", resize="corner"))] * 3
    (here,) = MediaPool(0, None).load(jobs[:1])
    with MediaPool(2, 60.0) as pool:
        for result in pool.load(jobs):
            assert result.error is None and np.array_equal(result.array, here.array)


def test_a_part_that_workers_cannot_import_is_named_before_the_first_job(clips):
    job = LoadJob(clips, VideoPreprocessing(size=16, num_frames=2, sampling="unreachable"))
    with (
        MediaPool(1, 60.0) as pool,
        pytest.raises(UserError, match="rule 'unreachable': worker processes cannot impor"),
    ):
        list(pool.load([job]))
    (here,) = MediaPool(0, None).load([job])
    assert here.array.shape == (3, 1, 16, 16)
