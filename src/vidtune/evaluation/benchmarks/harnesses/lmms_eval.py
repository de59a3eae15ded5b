"""lmms-eval 0.7.2, github.com/EvolvingLMMs-Lab/lmms-eval (MIT and Apache-2.0).

Its wrapper of Video-LLaVA runs the transformers port of the weights: no attention over time, another activation, frames
resized by the port's processor. It writes no system line, puts "?" behind every question, lists of options included,
and fills a clip of fewer than 8 frames up with zeros.

The commits are those at which files were read; what they ask was then compared with the release, 0.7.2 on PyPI.
"""

from typing import Any

from vidtune.evaluation.benchmarks.harnesses.base import Harness, Task, Wrapper
from vidtune.evaluation.benchmarks.images.base import SHORT_ANSWER
from vidtune.evaluation.benchmarks.multiple_choice.mvbench import MVBENCH_LMMS_EVAL
from vidtune.evaluation.benchmarks.multiple_choice.video_mme import VIDEO_MME_LMMS_EVAL, VIDEO_MME_SUBTITLES_LMMS_EVAL

_TASKS, _MODELS = "lmms_eval/tasks", "lmms_eval/models/simple"


def _greedy(tokens: int) -> dict[str, Any]:
    return {"max_new_tokens": tokens, "do_sample": False}


def _by_qwen_vl_utils(frames: int, given: str) -> dict[str, Any]:
    """Rules of frames: an even number of at most so many, no more than the clip has, as qwen_vl_utils takes them."""
    count = {"num_frames": frames, "min_frames": 2, "multiple_of": 2}
    return {"given": given, **count, "sampling": "linspace_rounded"}


LMMS_EVAL = Harness(
    name="lmms-eval",
    version="0.7.2",
    repository="https://github.com/EvolvingLMMs-Lab/lmms-eval",
    tasks={
        "activitynet_qa": Task(
            source=f"{_TASKS}/activitynetqa/utils.py@2f636e7b, {_TASKS}/activitynetqa/_default_template_yaml@2bb5e985, "
            f"{_TASKS}/activitynetqa/activitynetqa_generation.yaml@06fff457",
            rules={"wording": f"{{question_capitalized}}? {SHORT_ANSWER}", "generation": _greedy(64)},
        ),
        "video_chatgpt": Task(
            source=f"{_TASKS}/videochatgpt/utils.py@0229ae50, "
            f"{_TASKS}/videochatgpt/videochatgpt_temporal.yaml@08638149",
            rules={"generation": _greedy(1024)},
        ),
        "mvbench": Task(
            source=f"{_TASKS}/mvbench/utils.py@1ab9504d, {_TASKS}/mvbench/_default_template_yaml@2bb5e985, "
            f"{_TASKS}/mvbench/mvbench_object_existence.yaml@2bb5e985",
            rules={"generation": _greedy(16)},
            record=MVBENCH_LMMS_EVAL.name,
            note="versions before 0.7 end the question of some sub-tasks with the sentence about the option's letter",
        ),
        "video_mme": Task(
            source=f"{_TASKS}/videomme/utils.py@06965734, {_TASKS}/videomme/videomme.yaml of 0.7.2",
            rules={"generation": _greedy(16)},
            record=VIDEO_MME_LMMS_EVAL.name,
        ),
        "video_mme_subtitles": Task(
            source=f"{_TASKS}/videomme/utils.py@06965734, {_TASKS}/videomme/videomme_w_subtitle.yaml of 0.7.2",
            rules={"generation": _greedy(16)},
            record=VIDEO_MME_SUBTITLES_LMMS_EVAL.name,
        ),
        "pope": Task(
            source=f"{_TASKS}/pope/utils.py@2c03baf0, {_TASKS}/pope/pope.yaml@2bb5e985",
            rules={"wording": f"{{bare}}\n{SHORT_ANSWER}", "generation": _greedy(128)},
        ),
        "textvqa": Task(
            source=f"{_TASKS}/textvqa/utils.py@03b2f7cb, {_TASKS}/textvqa/_default_template_textvqa_yaml@2eeb7189",
            rules={"wording": f"{{bare_capitalized}}\n{SHORT_ANSWER}", "generation": _greedy(1024)},
            sets_tokens=False,
            note="the task sets no number of tokens; 1024 is what most of its wrappers take then",
        ),
        "mme": Task(
            source=f"{_TASKS}/mme/utils.py@306a8b48, {_TASKS}/mme/mme.yaml@08638149",
            rules={"wording": f"{{bare}}\n{SHORT_ANSWER}", "generation": _greedy(16)},
        ),
    },
    wrappers={
        "video_llava": Wrapper(
            source=f"{_MODELS}/video_llava.py@5730356a, lmms_eval/models/model_utils/load_video.py@0ddf03b3",
            streams={
                "video": {
                    "prompt_format": "user_assistant",
                    "question_template": "{media}{question}?",
                    "towers": {"video": {"temporal_attention": False, "hidden_act": "quick_gelu"}},
                    "preprocessing": {
                        "num_frames": 8,
                        "sampling": "linspace",
                        "interpolation": "bicubic",
                        "antialias": True,
                        "order": "resize_then_normalize",
                        "short_clips": "zeros",
                    },
                }
            },
            note="computes in float32 (--dtype float32)",
        ),
        "videochat_flash": Wrapper(
            source=f"{_MODELS}/videochat_flash.py@1741440d",
            streams={"video": {"preprocessing": {"num_frames": 32, "min_frames": 32}}},
            note="computes in float16 (--dtype float16)",
        ),
        "transformers:qwen2_5_vl": Wrapper(
            source="lmms_eval/models/chat/qwen2_5_vl.py of 0.7.2",
            streams={"video": {"preprocessing": _by_qwen_vl_utils(32, "video")}, "image": {}},
            tokens=128,
            note="pictures and frames are resized there by qwen_vl_utils to between 200704 and 1605632 pixels, here by "
            "the model's own processor; computes in bfloat16 (--dtype bfloat16)",
        ),
        "transformers:llava_onevision": Wrapper(
            source="lmms_eval/models/chat/llava_hf.py of 0.7.2",
            streams={"image": {}},
            unlike={
                "video": "it hands the processor of LLaVA-OneVision a whole video; with --force_simple, 32 frames and "
                "the conversation of Vicuna"
            },
        ),
        "transformers:smolvlm": Wrapper(
            source="lmms_eval/models/chat/huggingface.py of 0.7.2",
            streams={"image": {}},
            tokens=4096,
            unlike={"video": "it leaves the frames to the processor of SmolVLM, which reads the file itself"},
            note="computes in bfloat16 (--dtype bfloat16)",
        ),
        "transformers:video_llava": Wrapper(
            source=f"{_MODELS}/video_llava.py@5730356a",
            unlike={
                "video": "it writes the conversation of Video-LLaVA itself and fills short clips up; leave "
                "--transformers out, then this is done"
            },
        ),
        "endpoint": Wrapper(
            source="lmms_eval/models/chat/openai.py of 0.7.2",
            streams={"video": {"preprocessing": _by_qwen_vl_utils(10, "images")}, "image": {}},
            note="pictures are sent there as PNG, and frames are resized by qwen_vl_utils",
        ),
    },
)
