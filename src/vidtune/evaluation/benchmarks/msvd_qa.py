"""MSVD-QA: short open questions on YouTube clips of a few seconds (Xu et al., ACM MM 2017)."""

from vidtune.evaluation.benchmarks.video_qa import VideoQA
from vidtune.evaluation.protocol import FileLookup

MSVD_QA = VideoQA(
    name="msvd_qa",
    title="MSVD-QA",
    folder="MSVD_Zero_Shot_QA",
    lookup=FileLookup(folder="videos"),
    source="Xu et al., Video Question Answering via Gradually Refined Attention, ACM MM 2017",
)
