"""ActivityNet-QA: human questions on long activity videos (Yu et al., AAAI 2019).

Type numbers: github.com/MILVLG/activitynet-qa, dataset/README.md.
"""

from vidtune.evaluation.benchmarks.video_qa import VideoQA
from vidtune.evaluation.protocol import FileLookup

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
)
