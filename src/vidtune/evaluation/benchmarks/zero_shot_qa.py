"""Zero-shot video QA: four test sets with open questions, in the layout of Video-ChatGPT's quantitative evaluation.

- MSVD-QA: short questions on YouTube clips of a few seconds (Xu et al., ACM MM 2017);
- MSRVTT-QA: short questions on web clips of 10 to 30 s (Xu et al., ACM MM 2017);
- TGIF-QA: questions on animated GIFs, converted to mp4 (Jang et al., CVPR 2017);
- ActivityNet-QA: human questions on long activity videos (Yu et al., AAAI 2019). Numbers of the question types:
  github.com/MILVLG/activitynet-qa, dataset/README.md.
"""

from typing import Any

from vidtune.evaluation.benchmarks.video_qa import VideoQA
from vidtune.evaluation.protocol import FileLookup

# Artemis, scripts/eval/run_qa_*.sh: sampled without a seed, so published numbers are one draw; here the protocol says
# the seed. top_k is the default of transformers.
ARTEMIS_SAMPLING: dict[str, Any] = {"do_sample": True, "temperature": 0.2, "top_k": 50, "max_new_tokens": 1024}

# Video-Panda, scripts/videopanda/eval/run_qa_*.sh: greedy, the question alone behind the frames.
SYSTEM_RULES: dict[str, dict[str, Any]] = {
    "video_panda": {
        "prompt_format": "videopanda_v1",
        "generation": {"do_sample": False, "max_new_tokens": 1024, "stop": ("</s>",)},
    },
    "artemis": {
        "prompt_format": "llava_v1",
        "generation": {**ARTEMIS_SAMPLING, "stop": ("</s>",)},
    },
}

MSVD_QA = VideoQA(
    name="msvd_qa",
    title="MSVD-QA",
    folder="MSVD_Zero_Shot_QA",
    lookup=FileLookup(folder="videos"),
    source="Xu et al., Video Question Answering via Gradually Refined Attention, ACM MM 2017",
    system_rules=SYSTEM_RULES,
)

MSRVTT_QA = VideoQA(
    name="msrvtt_qa",
    title="MSRVTT-QA",
    folder="MSRVTT_Zero_Shot_QA",
    lookup=FileLookup(folder="videos/all"),
    source="Xu et al., Video Question Answering via Gradually Refined Attention, ACM MM 2017",
    system_rules=SYSTEM_RULES,
)

TGIF_QA = VideoQA(
    name="tgif_qa",
    title="TGIF-QA",
    folder="TGIF_Zero_Shot_QA",
    lookup=FileLookup(folder="mp4"),
    source="Jang et al., TGIF-QA: Toward Spatio-Temporal Reasoning in Visual Question Answering, arXiv:1704.04497",
    system_rules=SYSTEM_RULES,
)

ACTIVITYNET_QA = VideoQA(
    name="activitynet_qa",
    title="ActivityNet-QA",
    folder="Activitynet_Zero_Shot_QA",
    lookup=FileLookup(folder="all_test", prefix="v_"),
    source="Yu et al., ActivityNet-QA: A Dataset for Understanding Complex Web Videos, AAAI 2019, arXiv:1906.02467",
    types={
        "0": "motion",
        "1": "spatial relationship",
        "2": "temporal relationship",
        "3": "yes/no",
        "4": "color",
        "5": "object",
        "6": "location",
        "7": "number",
        "8": "other",
    },
    system_rules=SYSTEM_RULES,
)
