"""LongVALE: questions about events of long videos with sound and speech: find, list and describe them.

Geng et al., LongVALE: Vision-Audio-Language-Event Benchmark, CVPR 2025, arXiv:2411.19772;
github.com/ttgeng233/LongVALE, `longvalellm/eval/eval.py`. Published scores depend on the exact words of
the queries: the spelling "fromat", and the blank after the line end in only two of them, are those of the original.
"""

from vidtune.evaluation.benchmarks.omni_events import CAPTIONING, GROUNDING, SEG_CAPTIONING, OmniEvents
from vidtune.evaluation.protocol import GenerationRules

SOURCE = "Geng et al., LongVALE: Vision-Audio-Language-Event Benchmark, CVPR 2025, arXiv:2411.19772"
TEMPLATES = {
    CAPTIONING: (
        "{media}\n Could you please detail the events that took place during different time segments in the video? "
        "List the events in the format: From xx to xx, event1. \n From xx to xx, event2. \n ..."
    ),
    GROUNDING: (
        "{media}\nAt which time interval can we find {question} taking place in the video? "
        "Give the timestamps in the fromat: From xx to xx."
    ),
    SEG_CAPTIONING: (
        "{media}\n Can you describe what occurred from {start} to {end} in the video? "
        "Please give the event description directly."
    ),
}
# Greedy. The published answers were sampled without a seed, at a temperature close to greedy, with the top_p of the
# language model's settings and the top_k of transformers: ``--protocol generation.do_sample=true`` does the same.
GENERATION = GenerationRules(max_new_tokens=1024, temperature=0.05, top_p=0.6, top_k=50)


def _longvale(name: str, title: str, tasks: tuple[str, ...]) -> OmniEvents:
    return OmniEvents(
        name=name,
        title=title,
        source=SOURCE,
        annotations="longvale-annotations-eval.json",
        folder="data",
        templates=TEMPLATES,
        tasks=tasks,
        generation=GENERATION,
    )


LONGVALE = _longvale("longvale", "LongVALE", (CAPTIONING, GROUNDING, SEG_CAPTIONING))
LONGVALE_CAPTIONING = _longvale("longvale_captioning", "LongVALE omni-DVC", (CAPTIONING,))
LONGVALE_GROUNDING = _longvale("longvale_grounding", "LongVALE omni-TVG", (GROUNDING,))
LONGVALE_SEG_CAPTIONING = _longvale("longvale_seg_captioning", "LongVALE omni-SC", (SEG_CAPTIONING,))
