"""VideoChat-Flash: long videos, every clip of four frames merged to 64 tokens, before Qwen2.

Source: arXiv:2501.00574, github.com/OpenGVLab/VideoChat-Flash (constants, key names and prompts of commit 2f8e2f5).
"""

from dataclasses import replace

from vidtune.processing.dialect import Dialect
from vidtune.processing.layout import Tokens
from vidtune.processing.prompts.format import Placement
from vidtune.processing.prompts.known import captions, chatml

NAME = "videochat_flash"

_SYSTEM = "You are a helpful assistant."
_TAG = "<(?:image|video)>"
_REST = f"(?:(?!{_TAG}).)"
_ONE_TAG_LATER = f"(?s:{_REST}+(?P<media>{_TAG}){_REST}*)"
_TIME = "\nThe video lasts for {duration:.2f} seconds, and {frames} frames are uniformly sampled from it. "

_CHATML = chatml("qwen_2", _SYSTEM)
# Published training supervises the tokens of the template and every newline, also in the turns of the user.
_TRAINING = replace(
    _CHATML,
    moved=_ONE_TAG_LATER,
    assistant=replace(_CHATML.assistant, supervised=("before", "end", "after")),
    also_supervised=("<|im_start|>", "<|im_end|>", "\n"),
    left_out=("QA_GT_caption_based_noisy",),
)
# The published chat puts no newline between the sentence about the video and the question, as the training texts do.
_CHAT = replace(_CHATML, name="qwen_2_chat", placements=(Placement("video", ("{tag}{question}",)),))
PROMPTS = {
    "qwen_2": _TRAINING,
    "qwen_2_chat": _CHAT,
    "qwen_2_bare": replace(_CHATML, name="qwen_2_bare", question="{media}{question}", layouts=False),
    "plain": replace(captions("plain", ("image", "video")), layouts=False),
}
"""Formats of training, of answering, of answering without any text around media, and of captions."""

DIALECT = Dialect(
    prompts=PROMPTS,
    training_prompt="qwen_2",
    answering_prompt="qwen_2_chat",
    layouts={"video": (Tokens(), _TIME)},
)
