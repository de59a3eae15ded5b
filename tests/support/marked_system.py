"""A system that adds three tokens to the tokenizer of its language model; else as the one that tiny models are of."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from vidtune.checkpoints.files.settings import KnownSettings
from vidtune.checkpoints.publication import CheckpointFormat, KeyMap
from vidtune.models.config import ADDED_TOKENS, VideoLMConfig
from vidtune.processing.added_tokens import AddedToken
from vidtune.registry import SYSTEMS
from vidtune.systems.base import System

MARKED = "marked"
TOKENS = (
    AddedToken("<vid_start>"),
    AddedToken("<vid_patch>", start="normal"),
    AddedToken("<vid_end>", special=False, predicted=True),
)
TEXTS = tuple(token.text for token in TOKENS)
_PROJECTOR = ("model.mm_projector.", "connectors.visual.")
_ROWS = (("model.embed_tokens.weight", f"{ADDED_TOKENS}.input"), ("lm_head.weight", f"{ADDED_TOKENS}.output"))
_KEYS = KeyMap((_PROJECTOR, *_ROWS, ("model.", "language_model.model.")))


def _is_projector(config: dict[str, Any], names: Iterable[str]) -> bool:
    """Rows beside a projector, which the system of tiny models does not claim."""
    found = {_KEYS.to_ours(name) for name in names}
    return None not in found and f"{ADDED_TOKENS}.input" in found and "connectors.visual.0.weight" in found


def _formats(whole: CheckpointFormat, name: str) -> tuple[CheckpointFormat, ...]:
    """A whole model, a projector file with rows, the same with whole matrices, and a LoRA run."""

    def read_config(config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> VideoLMConfig:
        assert whole.read_config is not None
        found = whole.read_config({key: value for key, value in config.items() if key != "marked"}, shapes)
        found.system = name
        return found

    def write_config(config: VideoLMConfig, towers: Mapping[str, str]) -> dict[str, Any]:
        assert whole.write_config is not None
        return {**whole.write_config(config, towers), "model_type": name, "marked": True}

    partial = {"keys": _KEYS, "matches": _is_projector, "partial": ("connectors.visual", ADDED_TOKENS)}
    return (
        replace(
            whole,
            matches=lambda config, names: config.get("model_type") == name and "model.norm.weight" in names,
            read_config=read_config,
            write_config=write_config,
            settings=whole.settings and whole.settings | KnownSettings(only={"marked": (True,)}),
        ),
        CheckpointFormat(name="projector", file_name="mm_projector.bin", **partial),
        CheckpointFormat(name="projector_whole", file_name="mm_projector.bin", whole_matrices=True, **partial),
        CheckpointFormat(name="lora", adapter=True, write_config=write_config, **partial),
    )


@contextmanager
def marked_system(name: str = MARKED, **changes: Any) -> Iterator[System]:
    """Register the system; ``changes`` are those of its dialect."""
    whole = SYSTEMS["video_llava"]

    def build_config(*parts: Any) -> VideoLMConfig:
        config = whole.architecture.build_config(*parts)
        config.system = name
        return config

    dialect = replace(whole.dialect, **{"added_tokens": TOKENS, **changes})
    architecture = replace(whole.architecture, build_config=build_config)
    publication = replace(whole.publication, formats=_formats(whole.publication.formats[0], name))
    system = replace(whole, name=name, dialect=dialect, architecture=architecture, publication=publication)
    SYSTEMS.register(name, system)
    try:
        yield system
    finally:
        SYSTEMS.unregister(name)
