"""Mistakes in the parts of a dialect: each is refused in one line before a sample is read."""

from types import SimpleNamespace

import pytest

from vidtune.errors import UserError
from vidtune.processing.added_tokens import AddedToken
from vidtune.processing.dialect import Dialect, check_dialect
from vidtune.processing.layout import Tokens, check_layouts
from vidtune.processing.prompts.format import AnswerFrame, Placement, PromptFormat

STREAMS = {"video": SimpleNamespace(preprocessing=SimpleNamespace(kind="video", frame_indices=None))}


@pytest.mark.parametrize(
    "layout",
    [
        None,
        [Tokens()],
        (Tokens(), 3),
        (None, Tokens()),
        (Tokens(frames=-1),),
        (Tokens(frames="2"),),
        (Tokens(), "{duration:.{frames}f}"),
    ],
)
def test_a_layout_that_cannot_be_written_is_refused(layout):
    with pytest.raises(UserError, match="system s: layout of 'video'"):
        check_layouts({"video": layout}, STREAMS, {}, "s")


@pytest.mark.parametrize(
    "changes",
    [
        {"question": "{question}{media}{}"},
        {"question": "{media}{question:>q}"},
        {"question": "{media}{question!z}"},
        {"question": "{media}{question"},
        {"moved": "("},
        {"moved": "(<video>)"},
        {"answer_mark": "A:", "assistant": AnswerFrame(end="")},
        {"assistant": AnswerFrame(supervised=("qq",))},
        {"placements": (Placement("video", ("{question}",)),)},
        {"placements": (Placement("video", ("{question} {tag} {tag}",)),)},
        {"placements": (Placement("video", ()),)},
    ],
)
def test_a_prompt_format_that_cannot_be_written_is_refused(changes):
    with pytest.raises(ValueError, match="prompt format 'p'"):
        PromptFormat("p", **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompts": {"p": None}},
        {"prompts": {"p": {}}},
        {"times": "nothing"},
        {"max_media": {"vidoe": 1}},
        {"added_tokens": (AddedToken("<a>"), AddedToken("<a>"))},
        {"added_tokens": (AddedToken(" "),)},
        {"added_tokens": (AddedToken("<video>"),)},
        {"added_tokens": (AddedToken("<a>", start="ones"),)},
        {"target": ("video", "track")},
        {"prompts": {"p": PromptFormat("p", placements=(Placement("track", ("{question}{tag}",)),))}},
    ],
)
def test_a_dialect_that_cannot_be_used_is_refused(changes):
    plain = {"prompts": {"p": PromptFormat("p")}, "training_prompt": "p", "answering_prompt": "p"}
    check_dialect(Dialect(**plain), STREAMS, "s")
    with pytest.raises(UserError, match="system s: "):
        check_dialect(Dialect(**{**plain, **changes}), STREAMS, "s")
