"""Recognise what a place holds: ``recognise(place) -> Source``. No weight is read, only configs, names and shapes.

Only :func:`recognise` calls itself: for the base of a bundle, for what a LoRA run stands on, and for the parts of a
recipe. Every file is opened once for all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vidtune.checkpoints.files.folder import CONFIG, CheckpointFiles
from vidtune.checkpoints.files.hub import pinned
from vidtune.checkpoints.files.settings import StrangeSettingError
from vidtune.checkpoints.files.tensors import SINGLE_NAMES
from vidtune.checkpoints.lora.adapter_files import TRAINABLE_NAMES, official_name
from vidtune.checkpoints.lora.adapter_settings import CONFIG_NAME, require_plain
from vidtune.checkpoints.lora.bundle import LANGUAGE_MODEL, MANIFEST, read_manifest
from vidtune.checkpoints.parts.claims import AmbiguousCheckpointError, connector_files, find_format
from vidtune.checkpoints.parts.model_settings import language_model_notes, require_readable
from vidtune.checkpoints.publication import CheckpointFormat, NamedParts
from vidtune.checkpoints.report import OURS
from vidtune.checkpoints.source import NEEDS_BASE, Kind, Source
from vidtune.errors import RecipeError, UserError, errors_of
from vidtune.recipe.types import Recipe
from vidtune.registry import SYSTEMS

HOW = "with --model-base, once for each part that it needs, the lowest first"
"""How a user names the parts that a checkpoint needs below it."""
TEACHER = "teacher."
"""Prefix of the component name of a teacher, which may be a tower or a whole model of ours with that tower."""
Opened = dict[str, CheckpointFiles]
"""Files of the checkpoints that are open already, by place."""


@dataclass(frozen=True)
class _Below:
    """Something below a source that has still to be recognised: arguments of :func:`recognise`."""

    place: str | Path | Recipe
    base: Sequence[str] = ()
    system: str | None = None
    towers: Mapping[str, str] = field(default_factory=dict)
    component: str = ""
    layer: bool = False
    may_draw: bool = True


def recognise(
    place: str | Path | Recipe,
    revision: str | None = None,
    base: Sequence[str] = (),
    *,
    system: str | None = None,
    towers: Mapping[str, str] | None = None,
    component: str = "",
    layer: bool = False,
    may_draw: bool = True,
    opened: Opened | None = None,
    above: tuple[Path, ...] = (),
) -> Source:
    """Find out what a place holds and what that stands on.

    Args:
        place: folder, file or hub id; or a recipe, for the model from which its first stage starts.
        revision: branch, tag or commit of a hub id; None: as the place says (``org/name@revision``), or the newest.
        base: what a checkpoint that is not whole stands on, bottom up: a language model or a whole checkpoint, files
            of connectors, LoRA runs. Of a bundle: where its base, or the language model of its base, is now.
        system: name of the required system; None: any.
        towers: tower -> place of its weights, for a model that comes without it, or in the place of its own.
        component: name of the component that the file is for, such as ``towers.video``; empty for a model.
        layer: it must be a LoRA run or connectors, no whole model.
        may_draw: of a recipe: see :class:`Source`.
        opened: files that are open already; new ones are added.
        above: resolved folders of the bundles that stand on this place, top down.

    Raises:
        UserError: unknown format, or things that do not belong together; one line that names the path.
    """
    opened = {} if opened is None else opened
    towers = dict(towers or {})
    if isinstance(place, Recipe):
        place, towers = _with_places(place, towers)
        source, below = _describe_recipe(place, may_draw, opened)
    else:
        files = _open(pinned(str(place), revision), opened, component)
        if component and not (component.startswith(TEACHER) and files.config.get("model_type") == OURS):
            source, below = _describe_part(files, component, system), []
        else:
            own = None if component else system  # a teacher may be a model of another system
            source, below = _describe_model(files, base, own, towers, layer, opened)
    if source is not None and source.kind == "bundle":
        above = _with_bundle(above, source)
    if source is not None and not source.is_layer:
        source = replace(source, towers=_named_towers(towers, str(source.system), opened))
    elif below:
        below = [replace(below[0], towers={**below[0].towers, **towers}), *below[1:]]
    children = tuple(recognise(**vars(lower), opened=opened, above=above) for lower in below)
    if isinstance(place, Recipe):
        made = children[0] if source is None else replace(source, children=children)
        return made if not may_draw else replace(made, seed=place.seed)
    assert source is not None
    if source.kind in NEEDS_BASE and children and children[0].system != source.system:
        bottom = children[0]
        raise UserError(f"{source.path}: is of system {source.system}, but {bottom.place} of {bottom.system}")
    return replace(source, children=children)


def _with_places(recipe: Recipe, towers: Mapping[str, str]) -> tuple[Recipe, dict[str, str]]:
    """Put the places of towers that a user names into a recipe, where it names places itself.

    Returns the recipe and the other towers, whose weights complete the model.
    """
    if recipe.starting_place is not None:
        return recipe, dict(towers)
    moved = {name: place for name, place in towers.items() if isinstance(recipe.towers.get(name), str)}
    others = {name: place for name, place in towers.items() if name not in moved}
    return recipe.model_copy(update={"towers": {**recipe.towers, **moved}}), others


def _named_towers(places: Mapping[str, str], system: str, opened: Opened) -> tuple[Source, ...]:
    """The towers that a user names. Raises UserError for a name that no tower has."""
    for name in places:
        SYSTEMS[system].publication.tower(name)
    return tuple(
        recognise(place, system=system, component=f"towers.{name}", opened=opened) for name, place in places.items()
    )


def _with_bundle(above: tuple[Path, ...], bundle: Source) -> tuple[Path, ...]:
    """Add a bundle to those that stand on it. Raises UserError where it is one of them."""
    folder = bundle.path.resolve()
    if folder in above:
        circle = " -> ".join(str(one) for one in (*above[above.index(folder) :], folder))
        raise UserError(f"{bundle.path}: the bundle stands on itself ({circle}); mend base in {folder / MANIFEST}")
    return (*above, folder)


def _open(place: str, opened: Opened, component: str = "") -> CheckpointFiles:
    """The files of a place. Raises UserError where there are none; for those of a component it names the component."""
    if place not in opened:
        try:
            opened[place] = CheckpointFiles(place)
        except UserError as error:
            raise RecipeError(f"{component}: {error}") if component else error from None
        require_readable(opened[place].config, opened[place].path)
    return opened[place]


def _describe_recipe(recipe: Recipe, may_draw: bool, opened: Opened) -> tuple[Source | None, list[_Below]]:
    """The model of a recipe: LoRA runs on its checkpoint or parts.

    The source is None if the recipe starts from a checkpoint, which is then the only child.
    """
    if recipe.lora_runs:
        _require_once(recipe.lora_runs)
        *lower, top = (_Below(run, system=recipe.system, layer=True) for run in recipe.lora_runs)
        run = _require_layer(_open(str(top.place), opened), recipe.system)
        return run, [_Below(recipe.model_copy(update={"lora_runs": ()}), may_draw=may_draw), *lower]
    if recipe.starting_place is not None:
        kind = _identify(_open(recipe.starting_place, opened), recipe.system).kind
        _require_used(recipe, kind)
        towers = {name: place for name, place in recipe.towers.items() if isinstance(place, str)}
        return None, [_Below(recipe.starting_place, parts_below(recipe, kind), recipe.system, towers)]
    places = {
        **{f"towers.{name}": spec for name, spec in recipe.towers.items()},
        **{f"connectors.{name}": spec for name, spec in recipe.connectors.items()},
        LANGUAGE_MODEL: recipe.language_model,
    }
    named = {component: spec for component, spec in places.items() if isinstance(spec, str)}
    parts = Source("parts", system=recipe.system, recipe=recipe, may_draw=may_draw)
    return parts, [_Below(place, system=recipe.system, component=component) for component, place in named.items()]


def _require_once(places: Sequence[str]) -> None:
    """Raise UserError for a place that is named twice; its weights would be added twice."""
    seen = set()
    for place in places:
        path = Path(place).resolve()
        if path in seen:
            raise UserError(f"{place}: is named twice; what it holds is added once only")
        seen.add(path)


def _require_used(recipe: Recipe, kind: Kind) -> None:
    """Raise UserError for parts that a recipe names beside its checkpoint, but that this checkpoint would not take."""
    parts = {
        "language_model": recipe.language_model,
        **{f"towers.{name}": spec for name, spec in recipe.towers.items()},
        **{f"connectors.{name}": spec for name, spec in recipe.connectors.items()},
    }
    for name, spec in parts.items():
        if spec is None:
            continue
        beside = f"checkpoint: {recipe.checkpoint}: is "
        if kind not in NEEDS_BASE:
            swap = ", or swap the tower with `vidtune convert --tower`" if name.startswith("towers.") else ""
            raise UserError(f"{beside}a whole model, which would not take {name}; remove {name}{swap}")
        if not isinstance(spec, str):
            raise UserError(f"{beside}no whole model ({kind}) and stands on weights; give a file or folder for {name}")
        if kind == "delta" and name.startswith("connectors."):
            raise UserError(f"{beside}a difference to a language model, which would not take {name}; remove it")


def parts_below(recipe: Recipe, kind: Kind) -> tuple[str, ...]:
    """Return what a checkpoint of this kind stands on, of the recipe's own parts; nothing for a whole one."""
    if kind not in NEEDS_BASE or not isinstance(recipe.language_model, str):
        return ()
    connectors = (spec for spec in recipe.connectors.values() if isinstance(spec, str))
    return (recipe.language_model, *(() if kind == "delta" else connectors))


def _describe_part(files: CheckpointFiles, component: str, system: str | None) -> Source:
    """A file or folder that a recipe names for one component."""
    if component == LANGUAGE_MODEL:
        return Source("language_model", files, component=component, notes=language_model_notes(files))
    if component.startswith("connectors."):
        names = (*SINGLE_NAMES, *connector_files())
        return Source("connectors", files, system, component=component, names=names)
    if files.config.get("model_type") == OURS and files.has(MANIFEST):
        raise UserError(f"{files.path}: holds adapters on a base; merge them first: vidtune convert {files.path} OUT")
    return Source("tower", files, system, component=component)


def _describe_model(
    files: CheckpointFiles,
    base: Sequence[str],
    system: str | None,
    towers: Mapping[str, str],
    layer: bool,
    opened: Opened,
) -> tuple[Source, list[_Below]]:
    """A model, or what changes one, with what it stands on as the user and its own files say."""
    try:
        source = _require_layer(files, system) if layer else _identify(files, system)
    except AmbiguousCheckpointError:
        below = _identified_alone(_open(base[0], opened)) if base and system is None else None
        if below is None:
            raise
        source = _identify(files, below.system)
    if source.kind == "bundle" and len(base) > 1:
        raise UserError(f"{files.path}: knows what it stands on; give --model-base once, where that has moved")
    if source.manifest is not None:
        return source, [_below_bundle(source, base[0] if base else None, towers, opened)]
    if source.is_layer and base:
        bottom, *layers = base
        above = [*(_require_layer(_open(place, opened), source.system) for place in layers), source]
        _require_once([one.place for one in above])
        return source, [
            _bottom(bottom, above, opened),
            *(_Below(place, system=source.system, layer=True) for place in layers),
        ]
    return source, []


def _identify(files: CheckpointFiles, system: str | None = None) -> Source:
    """What the files of a model are by themselves. Raises UserError where no system knows their format."""
    config = files.config
    if config.get("model_type") == OURS:
        if system not in (None, config.get("system")):
            raise UserError(f"{files.path}: is of system {config.get('system')}, not of {system}")
        if files.has(MANIFEST):
            return Source("bundle", files, config.get("system"), manifest=read_manifest(files))
        return Source("native", files, config.get("system"), notes=language_model_notes(files))
    is_run = files.has(CONFIG_NAME)
    names = TRAINABLE_NAMES if is_run else (*SINGLE_NAMES, *connector_files())
    shapes = files.tensors(names).shapes
    if is_run:
        shapes = {official_name(key): shape for key, shape in shapes.items()}
    found, format = find_format(config, shapes, files.path, is_run, system)
    if not format.partial and format.read_config is None:
        raise UserError(f"{files.path}: a checkpoint of format {format.name} holds no whole model")
    kind: Kind = "published"
    if format.partial:
        kind = "run" if is_run else "delta" if format.difference else "connectors"
    return Source(kind, files, found, format, names=names, notes=_notes(files, format, is_run))


def _notes(files: CheckpointFiles, format: CheckpointFormat, is_run: bool) -> tuple[str, ...]:
    """Unknown settings that are switched off. Raises UserError for one that may change what the model computes."""
    unknown = {}
    if is_run:
        unknown[CONFIG_NAME] = require_plain(files.json(CONFIG_NAME), files.path)
    if format.settings is not None and files.config:
        unknown[CONFIG] = format.settings.require(files.config, f"{files.path}/{CONFIG}")
    return tuple(
        f"{files.path / file}: settings that vidtune does not know, but that are switched off: {', '.join(keys)}"
        for file, keys in unknown.items()
        if keys
    )


def _require_layer(files: CheckpointFiles, system: str | None) -> Source:
    source = _identify(files, system)
    if source.kind not in NEEDS_BASE:
        what = "is a bundle, which names its own base" if source.kind == "bundle" else "is a whole model"
        raise UserError(
            f"{files.path}: {what}; expected a LoRA run or a file of connectors "
            "(only the first --model-base may be a whole model)"
        )
    return source


def _bottom(place: str, above: Sequence[Source], opened: Opened) -> _Below:
    """What layers stand on: a whole model, or parts around a language model.

    Args:
        above: the layers, bottom up.
    """
    lowest, top = above[0], above[-1]
    files, system = _open(place, opened), str(top.system)
    found = _identified(files, system)
    misplaced = next((layer.path for layer in above[1:] if layer.kind == "delta"), None)
    if misplaced is not None:
        raise UserError(f"{misplaced}: holds differences to a language model; name it directly after that one")
    if found is not None and found.kind in NEEDS_BASE:
        raise UserError(f"{place}: holds no language model, which has to be the first; name it {HOW}")
    if found is not None or is_video_model(files, system):
        if lowest.kind == "delta":
            raise UserError(
                f"{lowest.path}: holds differences to a language model, but {place} is a whole model; name the "
                "language model alone"
            )
        return _Below(place, system=None if found is None else system)
    named = _named_parts(top if top.config or lowest.kind != "delta" else lowest)
    own = str(lowest.path) if lowest.kind == "delta" and lowest.has_tokenizer else None
    parts = Recipe(
        system=system,
        language_model=place,
        towers=dict(named.towers),
        connectors=dict(named.connectors),
        tokenizer=own,
    )
    return _Below(parts, may_draw=False)


def _named_parts(source: Source) -> NamedParts:
    try:
        with errors_of(f"system {source.system}: named_parts fails", ValueError):
            named = SYSTEMS[str(source.system)].publication.named_parts(source.config)
    except ValueError as error:
        raise UserError(f"{source.path}: {error}") from None
    if not isinstance(named, NamedParts):
        raise UserError(f"system {source.system}: named_parts returns {type(named).__name__}; expected NamedParts")
    return named


def _below_bundle(source: Source, given: str | None, towers: Mapping[str, str], opened: Opened) -> _Below:
    """The base of a bundle at the place where it is now."""
    assert source.manifest is not None
    named_language_model = given is not None and not is_video_model(_open(given, opened), str(source.system))
    base = source.manifest.base
    if base.parts is not None:
        base = base.model_copy(update={"parts": _with_places(_used(base.parts, opened), towers)[0]})
    base = base.found(source.path, given, named_language_model)
    if base.parts is not None:
        return _Below(base.parts.model_copy(update={"tokenizer": str(source.path)}))
    return _Below(str(base.checkpoint), base=base.below, system=source.system)


def _used(recipe: Recipe, opened: Opened) -> Recipe:
    """A stored recipe without the parts that earlier versions left out beside a whole checkpoint."""
    named = recipe.starting_place is not None and (recipe.language_model or recipe.towers or recipe.connectors)
    if not named or _identify(_open(str(recipe.starting_place), opened), recipe.system).kind in NEEDS_BASE:
        return recipe
    return recipe.model_copy(update={"language_model": None, "towers": {}, "connectors": {}})


def _identified(files: CheckpointFiles, system: str | None = None) -> Source | None:
    """What the files of a video language model are; None for anything else, such as a language model alone."""
    try:
        return _identify(files, system)
    except (AmbiguousCheckpointError, StrangeSettingError):
        raise
    except UserError:
        return None


def _identified_alone(files: CheckpointFiles) -> Source | None:
    """What the files of a whole video language model are; None for anything else."""
    try:
        found = _identified(files)
    except AmbiguousCheckpointError:
        return None
    return None if found is None or found.kind in NEEDS_BASE else found


def is_video_model(files: CheckpointFiles, system: str | None = None) -> bool:
    """Return whether these are the files of a video language model, of this system or of another one."""
    return _identified(files, system) is not None or _identified(files) is not None
