"""The recipe: one YAML file that says which system is built, how it is trained stage by stage, what it is tested on.

Everything here is a frozen value; unknown keys are refused with file, line and the nearest known key. Paths are
relative to the folder the command runs in; ``~`` stands for the home folder.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vidtune.errors import UserError
from vidtune.recipe.mistakes import Misplaced, explain
from vidtune.recipe.shipped import list_recipes, recipe_path
from vidtune.recipe.yaml_document import read_yaml
from vidtune.spelling import suggestion

COMPONENT_GLOB = re.compile(r"(towers|connectors|alignments)(\.[A-Za-z0-9_*?\[\]!-]+)?|language_model|\*")
STAGE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
# Settings of a stage that do not change the weights it gives, or by float rounding alone.
EXECUTION_SETTINGS = (
    "save_every",
    "keep",
    "workers",
    "media_timeout",
    "max_excluded",
    "log_every",
    "parallel",
    "max_tokens_per_batch",
    "gradient_checkpointing",
)
# Parts of a recipe that do not change the weights.
OTHER_PARTS = {"world", "benchmarks", "generation", "trackers", "features"}


def _expand_home(path: str) -> str:
    return str(Path(path).expanduser()) if path.startswith("~") else path


def _component_glob(glob: str) -> str:
    if not COMPONENT_GLOB.fullmatch(glob):
        raise ValueError(
            f"{glob!r} is no component; write towers.NAME, connectors.NAME, alignments.STREAM or language_model; "
            "* matches any"
        )
    return glob


FilePath = Annotated[str, AfterValidator(_expand_home)]
ComponentGlob = Annotated[str, AfterValidator(_component_glob)]


class Settings(BaseModel):
    """Base of all recipe values: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, coerce_numbers_to_str=True)


class DataSource(Settings):
    """Annotations and the folder their media paths are relative to.

    Args:
        annotations: the file.
        media: the folder; None: text only, or features alone.
        features: per stream, folder of its tower's stored features, one file for each medium: named by the sample's id,
            or as the medium but for the suffix. A medium's stream reads the medium itself only where both are given
            and its features are missing.
        weight: how often an epoch takes each sample: 2 twice, 0.5 a random half of the file, drawn anew every epoch.
    """

    annotations: FilePath
    media: FilePath | None = None
    features: dict[str, FilePath] = Field(default_factory=dict)
    weight: float = Field(default=1.0, gt=0)


class LoRA(Settings):
    """Low-rank adaptation of a component's linear layers (arXiv:2106.09685); the update is scaled by alpha / rank.

    Args:
        rank: width of the update.
        alpha: the update is scaled by alpha / rank.
        dropout: share of the inputs that the update does not see, drawn anew each time.
        layers: names of the linear layers, such as ``q_proj``; None: all but the output head.
    """

    rank: int = Field(default=64, gt=0)
    alpha: float = Field(default=128, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    layers: tuple[str, ...] | None = None


class Distillation(Settings):
    """Pulls the hidden states at a stream's media towards what a frozen tower sees in the same media.

    The head that maps the one to the other is the component ``alignments.STREAM``.

    Args:
        teacher: folder or hub id of the tower's weights; or of a whole model of ours, whose tower of this stream it is;
            or its sizes, to draw it at random. No checkpoint holds it.
        weight: of the alignment loss beside the cross-entropy.
        layers: hidden states that are fused, the embeddings being 0; None: the last and every fourth before it.
    """

    teacher: str | dict[str, Any]
    weight: float = Field(default=1.0, gt=0)
    layers: tuple[int, ...] | None = None


class Train(Settings):
    """How one component trains; a bare number is its peak learning rate.

    Args:
        learning_rate: at its peak, after the warm-up.
        lora: train low-rank adapters in its linear layers; None: all of its weights.
    """

    learning_rate: float = Field(gt=0)
    lora: LoRA | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        return {"learning_rate": value} if isinstance(value, int | float | str) else value


class Stage(Settings):
    """One training phase. Components that ``train`` does not name are frozen.

    Args:
        name: also the name of the stage's folder.
        from_: where its weights come from: an earlier stage, or the path of a checkpoint. None: the stage before this
            one; for the first, the model as the recipe describes it.
        train: component glob ("towers.video", "connectors.*", "language_model") to learning rate; a group's name means
            all of the group.
        data: sources, concatenated in this order.
        epochs: passes over the data; 0.5 stops half way.
        max_steps: optimizer steps; None: as many as ``epochs`` makes.
        global_batch_size: samples per optimizer step, over all ranks and micro-batches.
        max_tokens_per_batch: tokens that one forward may hold; bounds memory, not results.
        parallel: how several processes share the work: "ddp" holds the weights on each, "fsdp2" shards them.
        prompt: name of the system's prompt format; None: the one it was trained with.
        media: per stream, preprocessing settings that differ from the system's.
        order: how samples are dealt into steps; "modality_grouped" keeps text-only samples and like lengths together.
        schedule: how the learning rate falls after the warm-up.
        warmup: share of the steps over which the learning rate rises.
        weight_decay: of AdamW; biases and norms are exempt.
        max_grad_norm: gradient norm to clip at; None: no clipping.
        betas: of AdamW.
        precision: what is computed in; trained weights and the optimizer are float32 in either.
        gradient_checkpointing: recompute the language model's activations in the backward pass instead of storing them.
        quantize: hold the frozen weights of the language model in 8 or 4 bits (needs bitsandbytes; for LoRA).
        max_length: tokens per sample before placeholders are expanded; the rest is cut.
        max_expanded_length: tokens per sample after expansion; the rest is cut.
        save_every: optimizer steps between checkpoints.
        keep: checkpoints kept besides the final one.
        workers: processes that decode media, for each training process; 0: decode in the training process. None: one
            less than its share of the machine's cores, 1 to 8.
        media_timeout: seconds one media file may take.
        max_excluded: share of the samples that may be left out, because of a bad file or annotation, before the stage
            stops; ten samples always may.
        log_every: optimizer steps between log lines.
    """

    name: str = Field(pattern=STAGE_NAME)
    from_: FilePath | None = Field(default=None, alias="from")
    train: dict[ComponentGlob, Train] = Field(min_length=1)
    data: tuple[DataSource, ...] = Field(min_length=1)
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, gt=0)
    global_batch_size: int = Field(gt=0)
    max_tokens_per_batch: int = Field(default=8192, gt=0)
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    prompt: str | None = None
    media: dict[str, dict[str, Any]] = Field(default_factory=dict)
    order: Literal["shuffled", "modality_grouped", "sequential"] = "shuffled"
    schedule: Literal["cosine", "constant", "linear"] = "cosine"
    warmup: float = Field(default=0.03, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float | None = Field(default=None, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    precision: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    quantize: Literal["8bit", "4bit"] | None = None
    max_length: int = Field(default=2048, gt=0)
    max_expanded_length: int = Field(default=3072, gt=0)
    save_every: int = Field(default=500, gt=0)
    keep: int = Field(default=1, gt=0)
    workers: int | None = Field(default=None, ge=0)
    media_timeout: float = Field(default=60.0, gt=0)
    max_excluded: float = Field(default=0.05, ge=0, le=1)
    log_every: int = Field(default=10, gt=0)


class BenchmarkEntry(Settings):
    """A benchmark to score the trained model on; a bare string is its name.

    Args:
        name: as ``vidtune benchmarks`` lists it.
        data: its folder; None: given on the command line.
        limit: number of questions to answer; None: all.
        features: per stream, the folder of published feature files that are read instead of the videos.
        without: ablations: one more run for each list, with its streams switched off, such as ``[[audio], [speech]]``.
    """

    name: str
    data: FilePath | None = None
    limit: int | None = Field(default=None, gt=0)
    features: dict[str, FilePath] = Field(default_factory=dict)
    without: tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Recipe(Settings):
    """A system, its ordered stages and its benchmarks.

    Args:
        system: as ``vidtune systems`` lists it.
        language_model: folder or hub id of a causal language model, or a transformers config (with ``model_type``) to
            build from scratch.
        tokenizer: folder or hub id; None: the language model's own.
        towers: per tower, folder or hub id of its weights, or a config to build from scratch; of a system that is
            published without its towers, one that is not named is left out, and its features are read from files.
        checkpoint: a whole model to start from instead; language model and towers are then taken from it.
        connectors: per connector, folder or file of its weights, or sizes that differ from the published ones.
        lora_runs: folders or hub ids of published LoRA runs that are merged into the model, in this order, before the
            first stage.
        distillation: per stream, the teacher of all stages.
        features: where what frozen towers give is stored and found again, so that no file is decoded and encoded twice:
            "auto" ($VIDTUNE_FEATURES, or ``features`` in the run's folder) or a folder; None: nowhere.
        seed: of initial weights, data order and random preprocessing.
        world: the synthetic world that ``vidtune demo`` renders for this recipe; DATA_ROOT is its folder.
        stages: training phases, in the order in which they run.
        benchmarks: what ``vidtune evaluate`` scores the result on.
        generation: decoding settings that differ from the protocol when the recipe's own benchmarks are run.
        trackers: where a run's numbers go besides its log.jsonl.
    """

    system: str
    language_model: str | dict[str, Any] | None = None
    tokenizer: FilePath | None = None
    towers: dict[str, str | dict[str, Any]] = Field(default_factory=dict)
    checkpoint: FilePath | None = None
    connectors: dict[str, str | dict[str, Any]] = Field(default_factory=dict)
    lora_runs: tuple[FilePath, ...] = ()
    distillation: dict[str, Distillation] = Field(default_factory=dict)
    features: FilePath | None = None
    seed: int = 42
    world: Literal["shapes", "events"] | None = None
    stages: tuple[Stage, ...] = ()
    benchmarks: tuple[BenchmarkEntry, ...] = ()
    generation: dict[str, Any] = Field(default_factory=dict)
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ("tensorboard",)

    @model_validator(mode="after")
    def _has_a_language_model(self) -> "Recipe":
        if self.language_model is None and self.checkpoint is None:
            raise ValueError("give a language_model, or a checkpoint to start from")
        return self

    @field_validator("stages")
    @classmethod
    def _stages_follow_each_other(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        earlier: list[str] = []
        names = [stage.name for stage in stages]
        for place, stage in enumerate(stages):
            start = f"stage {stage.name!r} starts from {stage.from_!r}, which is"
            if stage.name in earlier:
                raise Misplaced(f"two stages are named {stage.name!r}; the name is the stage's folder", place, "name")
            if stage.from_ == stage.name:
                raise Misplaced(f"{start} itself; remove from, or name an earlier stage or a checkpoint", place, "from")
            if stage.from_ in names and stage.from_ not in earlier:
                advice = "stages run in the order in which they stand; put that stage first"
                raise Misplaced(f"{start} not trained before it: {advice}", place, "from")
            if stage.from_ is not None and stage.from_ not in earlier and "/" not in stage.from_:
                advice = suggestion(stage.from_, earlier)
                raise Misplaced(f"{start} no earlier stage and no path; {advice}", place, "from")
            earlier.append(stage.name)
        return stages


def component_matches(glob: str, component: str) -> bool:
    """Whether a ``train`` key names a component: a glob over its name, or the name of the group it stands in."""
    return fnmatchcase(component, glob) or component.startswith(glob + ".")


def load_recipe(
    name_or_path: str | Path,
    overrides: Sequence[str] = (),
    expand: bool = True,
    variables: Mapping[str, str] | None = None,
) -> Recipe:
    """Read a recipe.

    Args:
        name_or_path: a shipped recipe's name, or a file.
        overrides: ``key=value`` strings; stages are addressed by name or index: ``stages.finetune.epochs=0.5``.
        expand: False keeps ``${NAME}`` as text where the variable is not set, to look at a recipe without its data.
        variables: values of ``${NAME}``; None: the process environment.

    Raises:
        UserError: with file and line: wrong syntax, unknown key (nearest named), wrong value, variable that is not set.
    """
    document = read_yaml(recipe_file(name_or_path), variables)
    if not isinstance(document.value, dict):
        raise UserError(f"{name_or_path}: a recipe is a mapping that starts with system: NAME")
    for assignment in overrides:
        document.override(assignment)
    try:
        recipe = Recipe.model_validate(document.value)
    except ValidationError as error:
        if expand and not any(problem["type"] == "extra_forbidden" for problem in error.errors()):
            document.require_set()
        raise UserError(explain(error, document, Recipe)) from error
    if expand:
        document.require_set()
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe as YAML, defaults written out; `load_recipe` reads it back to an equal value."""
    values = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def recipe_fingerprint(recipe: Recipe) -> str:
    """16 hex digits that name the weights a recipe gives; benchmarks and execution settings do not count."""
    values = recipe.model_dump(mode="json", by_alias=True, exclude=OTHER_PARTS)
    for stage in values["stages"]:
        for setting in EXECUTION_SETTINGS:
            del stage[setting]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def recipe_file(name_or_path: str | Path) -> Path:
    """The file of a shipped recipe, or the file itself; UserError when there is neither."""
    path = Path(name_or_path).expanduser()
    if str(name_or_path) in list_recipes():
        return recipe_path(str(name_or_path))
    if path.suffix in (".yaml", ".yml") or "/" in str(name_or_path):
        if path.exists():
            return path
        raise UserError(f"{path}: there is no such recipe file; vidtune recipes list names the shipped ones")
    return recipe_path(str(name_or_path))
