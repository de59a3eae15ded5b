"""VLMEvalKit, github.com/open-compass/VLMEvalKit (Apache-2.0).

A question reaches a model of videos as the texts of its message, joined by line breaks, after the whole video; one of
pictures as frames and texts in the order of the message. How an answer is decoded is the wrapper's choice, so tasks set
nothing; a model without a wrapper here keeps the settings of the benchmark.
"""

from vidtune.evaluation.benchmarks.harnesses.base import Harness, Task, Wrapper
from vidtune.evaluation.benchmarks.images.base import SHORT_ANSWER

_DATA = "vlmeval/dataset"
_CAREFULLY = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n"
)
_FRAMES = (
    "\nThese are the frames of a video. Select the best answer to the following multiple-choice question based on the "
    "video. Respond with only the letter (A, B, C, or D) of the correct option.\n"
)

_TEXT_AROUND = (
    "a video stands there between two texts of the question: 8 frames, rounded places of equal distance, and the first "
    "sentence before them"
)

VLMEVALKIT = Harness(
    name="vlmevalkit",
    version="commits named by the sources",
    repository="https://github.com/open-compass/VLMEvalKit",
    tasks={
        "mvbench": Task(
            source=f"{_DATA}/mvbench.py@006aa296 (MVBench), {_DATA}/video_dataset_config.py@00fff545 (MVBench_8frame)",
            rules={
                "choices": {
                    "wording": "\n".join(
                        (
                            _CAREFULLY,
                            "Question: {question}\nOptions:\n{options}",
                            "\nOnly give the best option.",
                            "Best option:(",
                        )
                    ),
                    "option": "({letter}) {option}",
                    "answering": "text",
                }
            },
            frames={"num_frames": 8, "sampling": "even_steps"},
            note="models that are shown frames get them there cut to 224 pixels, behind the first sentence of the "
            "question",
        ),
        "video_mme": Task(
            source=f"{_DATA}/videomme.py@00fff545, {_DATA}/video_dataset_config.py@00fff545 (Video-MME_8frame)",
            rules={
                "choices": {
                    "wording": "\n".join(("", _FRAMES, "Question: {question}\n{options}\nAnswer: ")),
                    "option": "{letter}. {option}",
                    "answering": "text",
                }
            },
            frames={"num_frames": 8, "sampling": "inner_steps"},
        ),
        "pope": Task(
            source=f"{_DATA}/image_yorn.py@145bdaf1, {_DATA}/image_base.py@05072655",
            rules={"wording": "{bare}"},
            note="asks what its own table POPE.tsv holds, which was not read; here the question of the test set",
        ),
        "textvqa": Task(
            source=f"{_DATA}/image_vqa.py@00b1c8d4 (ImageVQADataset)", rules={"wording": f"{{bare}}\n{SHORT_ANSWER}"}
        ),
        "mme": Task(
            source=f"{_DATA}/image_yorn.py@145bdaf1, {_DATA}/image_base.py@05072655",
            rules={"wording": "{released}"},
            note="asks what its own table MME.tsv holds, which was not read; here the question of the release",
        ),
    },
    wrappers={
        "video_llava": Wrapper(
            source="vlmeval/vlm/video_llm/video_llava.py@052f58b8 (VideoLLaVA)",
            streams={
                "video": {
                    "prompt_format": "llava_v1",
                    "question_template": "{media}\n{question}",
                    "generation": {
                        "max_new_tokens": 1024,
                        "do_sample": True,
                        "temperature": 0.2,
                        "top_p": 1.0,
                        "top_k": 50,
                    },
                }
            },
            note="samples without a seed and computes in float16 (--dtype float16)",
        ),
        "transformers:qwen2_5_vl": Wrapper(
            source="vlmeval/vlm/qwen2_vl/model.py@002f7b78 (Qwen2VLChat)",
            streams={"image": {"generation": {"max_new_tokens": 2048, "do_sample": False}}},
            unlike={"video": _TEXT_AROUND},
            note="pictures have there at least 1003520 and at most 12845056 pixels",
        ),
        "transformers:llava_onevision": Wrapper(
            source="vlmeval/vlm/llava/llava.py@d2381ea2 (LLaVA_OneVision_HF)",
            streams={"image": {}},
            unlike={"video": "it writes the seconds of the frames into the question, and the video behind it"},
            note="writes the tag of a picture itself and computes in float16 (--dtype float16)",
        ),
        "transformers:smolvlm": Wrapper(
            source="vlmeval/vlm/smolvlm.py (SmolVLM2)",
            unlike=dict.fromkeys(("video", "image"), "it has prompts of its own for SmolVLM and each task"),
        ),
        "transformers:video_llava": Wrapper(
            source="vlmeval/vlm/video_llm/video_llava.py@052f58b8 (VideoLLaVA)",
            unlike={"video": "it asks the official code of Video-LLaVA; leave --transformers out, then this is done"},
        ),
    },
)
