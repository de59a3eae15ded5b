"""Benchmarks on the synthetic video worlds, with exact ground truth.

- World-QA: questions about colour, shape, direction, count and order;
- World-Events: events that are seen and heard, asked about and scored like LongVALE;
- World-Targets: questions about the colour, shape and direction of one of several shapes, which a box shows;
- World-Moments: what is shown in which minute of a long video.
"""

from vidtune.evaluation.benchmarks.longvale import TEMPLATES
from vidtune.evaluation.benchmarks.omni_events import CAPTIONING, GROUNDING, SEG_CAPTIONING, OmniEvents
from vidtune.evaluation.benchmarks.target_qa import TargetQA
from vidtune.evaluation.benchmarks.video_qa import VideoQA
from vidtune.evaluation.protocol import FileLookup, GenerationRules

WORLD_QA = VideoQA(
    name="world_qa",
    title="World-QA",
    folder="World_Zero_Shot_QA",
    lookup=FileLookup(folder="videos", extensions=(".mp4",)),
    source="vidtune.world",
)

WORLD_EVENTS = OmniEvents(
    name="world_events",
    title="World-Events",
    source="vidtune.world",
    annotations="annotations.json",
    folder="eval/events",
    templates=TEMPLATES,
    tasks=(CAPTIONING, GROUNDING, SEG_CAPTIONING),
    generation=GenerationRules(),
)

WORLD_TARGETS = TargetQA(
    name="world_targets", title="World-Targets", source="vidtune.world", file="targets.json", folder="eval/targets"
)

WORLD_MOMENTS = VideoQA(
    name="world_moments",
    title="World-Moments",
    folder="moments",
    parent="eval",
    lookup=FileLookup(folder="videos", extensions=(".mp4",)),
    source="vidtune.world",
    system_rules={"videochat_flash": {"prompt_format": "qwen_2", "preprocessing": {"num_frames": 40}}},  # as it trains
)
