"""MSRVTT-QA: short open questions on web clips of 10 to 30 s (Xu et al., ACM MM 2017)."""

from vidtune.evaluation.benchmarks.video_qa import VideoQA
from vidtune.evaluation.protocol import FileLookup

MSRVTT_QA = VideoQA(
    name="msrvtt_qa",
    title="MSRVTT-QA",
    folder="MSRVTT_Zero_Shot_QA",
    lookup=FileLookup(folder="videos/all"),
    source="Xu et al., Video Question Answering via Gradually Refined Attention, ACM MM 2017",
)
