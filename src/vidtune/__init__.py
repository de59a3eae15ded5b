"""vidtune: train, run and validate video language models.

Everything in ``__all__`` is documented, typed and kept stable; the rest is private. Names load when they are first
used, so that ``import vidtune`` takes no time.
"""

from typing import TYPE_CHECKING, Any

from vidtune.models.auto import announce_auto_classes as _announce_auto_classes

__version__ = "0.1.0"

_PLACES = {
    "Chat": "vidtune.api.chat",
    "Endpoint": "vidtune.evaluation.models.endpoint",
    "Model": "vidtune.api.model",
    "Recipe": "vidtune.recipe.types",
    "Reply": "vidtune.api.reply",
    "Target": "vidtune.api.target",
    "UserError": "vidtune.errors",
    "answer": "vidtune.api.questions",
    "chat": "vidtune.api.questions",
    "evaluate": "vidtune.api.runs",
    "load": "vidtune.api.questions",
    "load_recipe": "vidtune.recipe.files",
    "register_annotations": "vidtune.extending",
    "register_benchmark": "vidtune.extending",
    "register_connector": "vidtune.extending",
    "register_judge": "vidtune.extending",
    "register_language_model": "vidtune.extending",
    "register_preprocessing": "vidtune.extending",
    "register_rule": "vidtune.extending",
    "register_system": "vidtune.extending",
    "register_tower": "vidtune.extending",
    "stream": "vidtune.api.questions",
    "train": "vidtune.api.runs",
}

__all__ = [
    "Chat",
    "Endpoint",
    "Model",
    "Recipe",
    "Reply",
    "Target",
    "UserError",
    "__version__",
    "answer",
    "chat",
    "evaluate",
    "load",
    "load_recipe",
    "register_annotations",
    "register_benchmark",
    "register_connector",
    "register_judge",
    "register_language_model",
    "register_preprocessing",
    "register_rule",
    "register_system",
    "register_tower",
    "stream",
    "train",
]

if TYPE_CHECKING:
    from vidtune.api.chat import Chat
    from vidtune.api.model import Model
    from vidtune.api.questions import answer, chat, load, stream
    from vidtune.api.reply import Reply
    from vidtune.api.runs import evaluate, train
    from vidtune.api.target import Target
    from vidtune.errors import UserError
    from vidtune.evaluation.models.endpoint import Endpoint
    from vidtune.extending import (
        register_annotations,
        register_benchmark,
        register_connector,
        register_judge,
        register_language_model,
        register_preprocessing,
        register_rule,
        register_system,
        register_tower,
    )
    from vidtune.recipe.files import load_recipe
    from vidtune.recipe.types import Recipe


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'vidtune' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_announce_auto_classes()
