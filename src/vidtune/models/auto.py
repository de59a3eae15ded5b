"""Auto classes: makes ``AutoConfig``, ``AutoModelForCausalLM`` and ``AutoProcessor`` of transformers find our classes.

:func:`announce_auto_classes` is called by ``import vidtune`` and imports neither torch nor transformers. It adds the
names of our classes to the name tables of transformers, and does so when transformers loads these tables: at once if
they are loaded already, else by an import hook that waits for these two modules. transformers then looks for the
classes in a module ``transformers.models.vidtune``; the stand-in for this module imports our model code when a class is
first asked for, that is, when a saved model or processor of ours is loaded. Importing
:mod:`vidtune.models.video_lm` registers the model classes in the documented way, by ``AutoModel.register``.

Other ways were no better: registering needs the classes themselves, and with them torch; ``auto_map`` in the saved
config needs ``trust_remote_code``.

The same hook lets transformers list its model files once. It lists them twice while it loads, and means to remember
what each of its 500 folders holds, but has room for 128 of them: 0.25 of the 2 s that it takes to load.
"""

import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODEL_TYPE = "vidtune"
_HOME = "vidtune.models.video_lm"
_STAND_IN = f"transformers.models.{MODEL_TYPE}"
# Module of transformers -> its table of names, and our entry in that table.
_TABLES = {
    "transformers.models.auto.configuration_auto": ("CONFIG_MAPPING_NAMES", "VideoLMConfig"),
    "transformers.models.auto.processing_auto": ("PROCESSOR_MAPPING_NAMES", "VideoLMProcessor"),
}


def announce_auto_classes() -> None:
    """Make the auto classes of transformers find our classes; may be called more than once."""
    sys.modules.setdefault(_STAND_IN, _OurClasses(_STAND_IN, "Stands for the model code of vidtune."))
    for name in _TABLES:
        if name in sys.modules:
            _add_our_entry(sys.modules[name])
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _OurClasses(ModuleType):
    """Module that imports our model code when one of our classes is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name not in ("VideoLMConfig", "VideoLM", "VideoLMProcessor"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOME), name)


class _Finder:
    """Finds the modules of :data:`_CHANGES` as Python does, and changes each of them after it has been executed.

    A finder of ``sys.meta_path``; its base class in ``importlib.abc`` would take longer to import than all of this.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _CHANGES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_change(module: ModuleType) -> None:
                execute(module)
                _CHANGES[fullname](module)

            spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


def _add_our_entry(module: ModuleType) -> None:
    table, name = _TABLES.get(module.__name__, ("", ""))
    names = getattr(module, table, None)
    if names is not None:
        names.setdefault(MODEL_TYPE, name)


def _list_once(module: ModuleType) -> None:
    listing: Any = getattr(module, "create_import_structure_from_path", None)
    if hasattr(listing, "cache_info"):  # remembered too, but too few
        module.create_import_structure_from_path = cache(listing.__wrapped__)  # type: ignore[attr-defined]


_CHANGES: dict[str, Callable[[ModuleType], None]] = {
    **dict.fromkeys(_TABLES, _add_our_entry),
    "transformers.utils.import_utils": _list_once,
}
"""Module of transformers -> what is changed in it."""
