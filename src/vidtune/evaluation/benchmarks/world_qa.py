"""Questions on the synthetic video world: colour, shape, direction, count, order; exact ground truth."""

from vidtune.evaluation.benchmarks.video_qa import VideoQA
from vidtune.evaluation.protocol import FileLookup

WORLD_QA = VideoQA(
    name="world_qa",
    title="World-QA",
    folder="World_Zero_Shot_QA",
    lookup=FileLookup(folder="videos", extensions=(".mp4",)),
    source="vidtune.world",
)
