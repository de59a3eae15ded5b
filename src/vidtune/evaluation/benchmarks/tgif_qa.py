"""TGIF-QA: open questions on animated GIFs, converted to mp4 (Jang et al., CVPR 2017)."""

from vidtune.evaluation.benchmarks.video_qa import VideoQA
from vidtune.evaluation.protocol import FileLookup

TGIF_QA = VideoQA(
    name="tgif_qa",
    title="TGIF-QA",
    folder="TGIF_Zero_Shot_QA",
    lookup=FileLookup(folder="mp4"),
    source="Jang et al., TGIF-QA: Toward Spatio-Temporal Reasoning in Visual Question Answering, arXiv:1704.04497",
)
