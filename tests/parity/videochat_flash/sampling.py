"""Frame sampling and the order of samples, against what the official functions of VideoChat-Flash gave."""

from typing import Any

import numpy as np
import torch

from vidtune.media.clip_times import ClipTimes
from vidtune.media.preprocessing.frame_sampling import FrameCount, clip_indices, frame_indices
from vidtune.media.preprocessing.resize_to_square import VideoPreprocessing
from vidtune.media.probe import MediaInfo
from vidtune.planning.order import modality_grouped_order

RULES = {"middle": "middles", "dynamic_fps1": "per_second_middles"}


def test_frames_are_those_of_the_official_sampler(host_side: dict[str, Any]) -> None:
    cases = [case for case in host_side["get_frame_indices"] if case["sample"] in RULES]
    assert len(cases) > 250
    for case in cases:
        rule = RULES[case["sample"]]
        wanted = FrameCount(case["num_frames"])
        if rule == "per_second_middles":
            wanted = FrameCount(case["max_num_frames"], case["min_num_frames"], case["local_num_frames"])
        found = frame_indices(rule, case["vlen"], wanted, case["fps"])
        assert len(found) == case["count"], case
        if "indices" in case:
            assert found == case["indices"], case
        else:
            assert (found[: len(case["first"])], found[-len(case["last"]) :]) == (case["first"], case["last"]), case
            assert sum(found) == case["sum"], case
        info = MediaInfo("video", 8, 8, ClipTimes.evenly(case["vlen"], case["fps"]), False, 0)
        steps = VideoPreprocessing(
            num_frames=wanted.most, min_frames=wanted.least, multiple_of=wanted.multiple, sampling=rule, size=8
        )
        assert clip_indices(rule, info.times, wanted) == found
        assert steps.output_shape(info) == (3, case["count"], 8, 8)
        assert steps.output_shape(info) in steps.output_shapes()


def test_even_steps_are_those_of_the_official_reader_of_clips(host_side: dict[str, Any]) -> None:
    for case in host_side["lazy_get_index"]:
        assert frame_indices("even_steps", case["num_frames"], case["num_segments"]) == case["indices"]


def test_order_is_that_of_the_official_sampler(host_side: dict[str, Any]) -> None:
    cases = [case for case in host_side["samplers"] if case["fn"] in ("modality", "modality_all_mm")]
    assert len(cases) == 3
    for case in cases:
        torch.manual_seed(case["global_torch_seed"])
        found = modality_grouped_order(np.array(case["lengths"]), case["batch_size"], case["world_size"])
        assert found.tolist() == case["indices"]
