"""Published prompts by which a chat model judges answers, by the name in `Question.judge_prompt`."""

_ASPECTS = "vidtune.evaluation.benchmarks.judge_prompts.aspects"
_IMAGES = "vidtune.evaluation.benchmarks.judge_prompts.images"

PARTS = {
    "video-qa": "vidtune.evaluation.judges.prompts:VIDEO_QA",
    "correctness": f"{_ASPECTS}:CORRECTNESS_PROMPT",
    "detail": f"{_ASPECTS}:DETAIL_PROMPT",
    "context": f"{_ASPECTS}:CONTEXT_PROMPT",
    "temporal": f"{_ASPECTS}:TEMPORAL_PROMPT",
    "consistency": f"{_ASPECTS}:CONSISTENCY_PROMPT",
    "consistency-first-twice": f"{_ASPECTS}:FIRST_TWICE_PROMPT",
    "pair-review": f"{_IMAGES}:PAIR_REVIEW_PROMPT",
    "correctness-of-parts": f"{_IMAGES}:CORRECTNESS_OF_PARTS_PROMPT",
}
