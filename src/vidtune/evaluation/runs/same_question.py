"""Whether a record of a foreign log is about a question of the test set.

A record may name its question in several ways: by ids, by its text or the whole prompt, by its sentence, by its video.
None of them may contradict the test set.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from vidtune.evaluation.benchmarks.named_files import VIDEO_EXTENSIONS
from vidtune.evaluation.protocol import Protocol
from vidtune.evaluation.question import Question

# Keys in lower case.
_TEXTS = ("question", "query", "prompt", "q")
_SENTENCES = ("sentence", "groundtruth")
_VIDEOS = ("video_name", "video", "video_id", "video_path")
_SHOWN = 80


def contradiction(question: Question, record: Mapping[str, Any], protocol: Protocol) -> str | None:
    """Returns what a record says that the question does not, in words; None: nothing contradicts."""
    for said in _said(record, _TEXTS):
        if not _asks(said, question, protocol.templates.get(question.type or "")):
            return f"asks {said.strip()[:_SHOWN]!r}, but in the test set {question.question.strip()[:_SHOWN]!r}"
    sentence = (question.reference or {}).get("sentence")
    for said in _said(record, _SENTENCES):
        if sentence is not None and plain(said) != plain(sentence):
            return f"is about {said.strip()[:_SHOWN]!r}, but in the test set about {sentence.strip()[:_SHOWN]!r}"
    for said in _said(record, _VIDEOS):
        if not _is_of(said, question.video, protocol.file_lookup.prefix):
            return f"is about the video {said[:_SHOWN]!r}, but in the test set about {question.video[:_SHOWN]!r}"
    return None


def repeats_text(question: Question, record: Mapping[str, Any]) -> bool:
    """Whether a record holds the very text of the question, not a longer one that contains it."""
    return any(plain(said) == plain(question.question) for said in _said(record, _TEXTS))


def plain(text: str) -> str:
    """A text without case, spacing, and punctuation at its end."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split()).rstrip(" ?.")


def _said(record: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[str]:
    """Yields the texts of a record under these keys, also those in ``info``."""
    info = record.get("info")
    for part in (record, info if isinstance(info, dict) else {}):
        for key, value in part.items():
            if str(key).lower() in keys and isinstance(value, str) and value.strip():
                yield value


def _asks(said: str, question: Question, template: str | None) -> bool:
    """Whether a text is the question, or a prompt that contains it.

    Args:
        template: text of the prompt around the question; None: the question stands alone, before or behind other
            sentences.
    """
    sentence = (question.reference or {}).get("sentence", "")
    if plain(said) in (plain(question.question), plain(sentence)):
        return True
    if template is None:
        return _is_sentence_of(question.question, said)
    values = {"question": question.question, **question.fields}
    needed = [plain(values[name]) for name in re.findall(r"{(\w+)}", template) if name in values]
    return all(re.search(rf"(?<!\w){re.escape(one)}(?!\w)", plain(said)) for one in needed)


def _is_sentence_of(question: str, said: str) -> bool:
    """Whether a prompt contains a question as a sentence: "is it red" is none of "why is it red or blue?"."""
    words = unicodedata.normalize("NFC", question).rstrip(" ?.\n").split()
    if not words:
        return not question.strip()
    text = r"\s+".join(map(re.escape, words))
    start, end = r"(?:^|\n|[^\w\s,'\u2019-])\s*", r"(?=\s*(?:$|\n|[A-Z]|[^\w\s,'\u2019-]))"
    return re.search(f"{start}(?i:{text}){end}", unicodedata.normalize("NFC", said)) is not None


def _is_of(said: str, video: str, prefix: str) -> bool:
    """Whether a name or path is that of a video, with whatever extension and prefix."""
    own = _bare(PurePosixPath(video).name, prefix)
    return any(_bare(part, prefix) == own for part in PurePosixPath(said.replace("\\", "/")).parts)


def _bare(name: str, prefix: str) -> str:
    path = PurePosixPath(unicodedata.normalize("NFC", name).casefold())
    bare = path.stem if path.suffix in (*VIDEO_EXTENSIONS, ".npy", ".npz", ".pkl", ".pt") else path.name
    while prefix and bare.startswith(prefix.casefold()):
        bare = bare.removeprefix(prefix.casefold())
    return bare
