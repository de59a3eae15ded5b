"""Questions on the synthetic video world: colour, shape, direction of motion, count, order of events; ground truth is exact."""

from vidtune.evaluation.benchmarks.video_qa import VideoQA
from vidtune.evaluation.protocol import FileLookup

WORLD_QA = VideoQA(
    name="world_qa",
    title="World-QA",
    folder="World_Zero_Shot_QA",
    lookup=FileLookup(folder="videos", extensions=(".mp4",)),
    source="vidtune.world",
)
