"""Typed values of a recipe: the system, its training stages and its benchmarks.

All values are frozen. An unknown key is refused with file, line, column and the nearest known key. Paths are relative
to the folder in which the command runs; ``~`` is the home folder.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Literal

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from vidtune.foreign.sizes import absurd_size, said_of
from vidtune.foreign.yaml_document import Key
from vidtune.recipe.mistakes import Misplaced
from vidtune.recipe.values import ComponentGlob, FilePath, OrderName, Place, SamplingName, Settings
from vidtune.spelling import suggestion

STAGE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
Beta = Annotated[float, Field(ge=0, lt=1)]


class DataSource(Settings):
    """An annotation file, or a folder of them, and the folder that contains the media.

    Args:
        annotations: path of the annotation file, or of a folder: its files ``*.json``, sorted by name; or, of format
            "mixture", of a list of data sets.
        format: name of the annotation format; None: "conversations", in the form of any trainer that vidtune knows.
        media: folder that the media paths in the file are relative to; None: text only, or stored features only.
        features: per stream, folder of stored features, one file per medium, named after the sample's id or after the
            medium (without its suffix). If ``media`` is given too, a medium without a feature file is decoded instead.
        weight: how often an epoch uses each sample: 2: twice; 0.5: a random half of the file, drawn anew every epoch.
        sampling: part of the samples that is used, the same one in every epoch: "first:1000" or "first:25%", "first2:",
            "first3:", "first4:" (the second, third, fourth block of that size), "end:", "random:"; None: all.
        frame_rate: frames per second that the videos of the file are taken to have, also folders of frames; None: those
            that they state.
        roots: of a list of data sets: start of a web address or path in the file -> local folder, the longest counts.
        missing_sets: of a list of data sets: what to do about sets that are not there, "refuse" or "leave_out"; None:
            "refuse".
    """

    annotations: FilePath
    format: str | None = None
    media: FilePath | None = None
    features: dict[str, FilePath] = Field(default_factory=dict)
    weight: float = Field(default=1.0, gt=0, le=1e4)
    sampling: SamplingName | None = None
    frame_rate: float | None = Field(default=None, ge=10**-4, le=10**6)
    roots: dict[str, FilePath] = Field(default_factory=dict)
    missing_sets: Literal["refuse", "leave_out"] | None = None


class LoRA(Settings):
    """Low-rank adaptation of a component's linear layers (arXiv:2106.09685); the update is scaled by alpha / rank.

    Args:
        rank: rank of the update matrices.
        alpha: numerator of the scale of the update, alpha / rank.
        dropout: probability with which an input value of the update is set to zero during training.
        layers: names of the linear layers, such as ``q_proj``; None: all except the output head.
    """

    rank: int = Field(default=64, gt=0, le=2**16)
    alpha: float = Field(default=128, gt=0, le=10**6)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    layers: tuple[str, ...] | None = None


class Distillation(Settings):
    """Alignment loss: pulls the hidden states at a stream's media towards the output of a frozen teacher tower.

    A trained head, the component ``alignments.STREAM``, maps the hidden states to the width of the teacher.

    Args:
        teacher: folder or hub id of the weights of the teacher tower; or folder of a vidtune model, whose tower of this
            stream is used; or the sizes of a tower, which then gets random weights. Checkpoints do not contain it.
        weight: factor of the alignment loss, which is added to the cross-entropy.
        layers: indices of the hidden states that are fused, 0 being the embeddings; None: the last and every fourth
            before it.
    """

    teacher: Place | dict[str, Any]
    weight: float = Field(default=1.0, gt=0, le=10**6)
    layers: tuple[int, ...] | None = None


class Contrast(Settings):
    """What ``objective: contrastive`` compares: towers with a text tower, both projected to one width.

    Its parts are the components ``contrast.text_tower``, ``contrast.STREAM`` (the projection of a stream) and
    ``contrast.temperature``. The result of the stage holds them in a folder of its own, beside the model.

    Args:
        text_tower: folder or hub id of the text transformer: of CLIP, of a tower that was aligned with it, or of the
            result of a contrastive stage, with its projections and temperature; or sizes of a CLIP text transformer,
            which then gets random weights. None: that of the stage or checkpoint from which the stage starts.
        tokenizer: folder or hub id of the tokenizer of the text tower; None: its own, or that of the language model.
        projections: per stream, folder or hub id of a tower that was aligned with texts, for its projection; the others
            get random weights.
        pool: per stream, "tower": the pooled output of its tower, or "mean": the mean of the features of its tower.
            None: "tower".
        loss: "softmax" (CLIP) or "sigmoid" (SigLIP); None: as the text tower was trained, else "softmax".
        temperature: first divisor of the products of unit vectors. None: as the text tower was trained, else 0.07, or
            0.1 with "sigmoid".
        bias: first bias of "sigmoid"; None: as the text tower was trained, else -10.
    """

    text_tower: Place | dict[str, Any] | None = None
    tokenizer: FilePath | None = None
    projections: dict[str, FilePath] = Field(default_factory=dict)
    pool: dict[str, Literal["tower", "mean"]] = Field(default_factory=dict)
    loss: Literal["softmax", "sigmoid"] | None = None
    temperature: float | None = Field(default=None, ge=0.01, le=1)
    bias: float | None = Field(default=None, ge=-1e3, le=1e3)

    @property
    def mean_streams(self) -> tuple[str, ...]:
        """Streams whose medium is the mean of the features of their tower."""
        return tuple(stream for stream, how in self.pool.items() if how == "mean")


class Train(Settings):
    """How one component is trained; a bare number is its peak learning rate.

    Args:
        learning_rate: peak learning rate, reached at the end of the warm-up.
        lora: settings of low-rank adapters in the linear layers of the component; None: all weights are trained.
        embedding_learning_rate: peak learning rate of the language model's token embeddings, and of its output head;
            None: ``learning_rate``.
        frozen_statistics: batch normalisation of the component uses its running statistics, as after training, and
            leaves them as they are; False: statistics of its input, with which running statistics are updated.
    """

    learning_rate: float = Field(gt=0, le=10**3)
    lora: LoRA | None = None
    embedding_learning_rate: float | None = Field(default=None, gt=0, le=10**3)
    frozen_statistics: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        return {"learning_rate": value} if isinstance(value, int | float | str) else value


class Stage(Settings):
    """One training stage. Components that ``train`` does not name are frozen.

    Args:
        name: name of the stage and of its folder.
        from_: where the initial weights come from: an earlier stage, or the path of a checkpoint. None: the previous
            stage; for the first stage, the model that the recipe describes.
        train: component glob ("towers.video", "connectors.*", "language_model") to learning rate or settings; the name
            of a group means all components of the group. "language_model.added_tokens", named in full: only the rows of
            the tokens that the system adds.
        data: data sources, concatenated in this order.
        objective: what the stage minimises. None: the cross-entropy of the answers. "align": how badly the embeddings
            of a sample's media tell which tokens its answers have; "align_each": how badly each of them alone does;
            "align_sentences": how badly one of them tells each sentence
            (:mod:`vidtune.models.text_alignment.caption_words`). "contrastive": how badly media and texts of a step
            find each other (:mod:`vidtune.models.text_alignment.contrast`).
            Only towers and connectors train then, or towers and what they are compared with, and the language model
            does not run.
        contrast: what a contrastive stage compares; None: what the stage from which it starts compared.
        epochs: number of passes over the data; may be a fraction.
        max_steps: number of optimizer steps; None: ``epochs`` decides.
        global_batch_size: number of samples per optimizer step, over all ranks and micro-batches.
        max_tokens_per_batch: maximum number of tokens in one forward pass; limits memory, does not change results.
        parallel: how several processes share the work: "ddp" keeps all weights on each process, "fsdp2" shards them.
        prompt: name of the system's prompt format, or ``chat_template`` for that of the tokenizer; None: the format the
            system was trained with.
        media: per stream, preprocessing settings that differ from the system's.
        sizes: component ("towers.video", "connectors.visual") to sizes that this stage and its result have; the weights
            stay as they are. None: those of the model from which the stage starts.
        order: rule by which samples are assigned to steps: "shuffled", "sequential", "modality_grouped" (text-only
            samples together, and samples of similar length), or a registered one.
        schedule: how the learning rate changes after the warm-up.
        warmup: fraction of the steps during which the learning rate rises.
        optimizer: what moves the weights: "adamw"; or "muon", which turns the matrices of linear layers by orthogonal
            steps and leaves all other weights to AdamW (:mod:`vidtune.training.optimizers`).
        weight_decay: weight decay; biases and norms are exempt.
        max_grad_norm: gradient norm above which gradients are clipped; None: no clipping.
        betas: coefficients of the running averages of AdamW; those of "muon" have the first.
        precision: dtype of the computation; trained weights and optimizer state are always float32.
        gradient_checkpointing: recompute the language model's activations in the backward pass instead of storing them.
        quantize: store the frozen weights of the language model in 8 or 4 bits (needs bitsandbytes; for LoRA).
        max_length: maximum number of tokens of a sample before placeholders are expanded; the rest is cut off.
        max_expanded_length: maximum number of tokens of a sample after expansion; the rest is cut off.
        save_every: number of optimizer steps between checkpoints.
        keep: number of checkpoints that are kept besides the final one.
        workers: number of processes that decode media, for each training process; 0: decode in the training process.
            None: one less than the process's share of the CPU cores, at least 1 and at most 8.
        media_timeout: maximum time in seconds for one media file.
        max_excluded: maximum fraction of samples that may be excluded because of a bad file or annotation before the
            stage stops with an error; ten samples are always allowed.
        log_every: number of optimizer steps between log lines.
    """

    name: str = Field(pattern=STAGE_NAME)
    from_: FilePath | None = Field(default=None, alias="from")
    train: dict[ComponentGlob, Train] = Field(min_length=1)
    data: tuple[DataSource, ...] = Field(min_length=1)
    objective: Literal["align", "align_each", "align_sentences", "contrastive"] | None = None
    contrast: Contrast | None = None
    epochs: float = Field(default=1.0, gt=0, le=1e5)
    max_steps: int | None = Field(default=None, gt=0, le=10**9)
    global_batch_size: int = Field(gt=0, le=10**7)
    max_tokens_per_batch: int = Field(default=8192, gt=0, le=10**9)
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    prompt: str | None = Field(default=None, min_length=1)
    media: dict[str, dict[str, Any]] = Field(default_factory=dict)
    sizes: dict[str, dict[str, Any]] | None = None
    order: OrderName = "shuffled"
    schedule: Literal["cosine", "constant", "linear"] = "cosine"
    warmup: float = Field(default=0.03, ge=0, lt=1)
    optimizer: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    max_grad_norm: float | None = Field(default=None, gt=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    precision: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    quantize: Literal["8bit", "4bit"] | None = None
    max_length: int = Field(default=2048, gt=0, le=10**9)
    max_expanded_length: int = Field(default=3072, gt=0, le=10**9)
    save_every: int = Field(default=500, gt=0)
    keep: int = Field(default=1, gt=0)
    workers: int | None = Field(default=None, ge=0, le=1024)
    media_timeout: float = Field(default=60.0, gt=0, le=10**6)
    max_excluded: float = Field(default=0.05, ge=0, le=1)
    log_every: int = Field(default=10, gt=0)


class BenchmarkEntry(Settings):
    """A benchmark for the trained model; a bare string is its name.

    Args:
        name: name of the benchmark, as ``vidtune benchmarks`` lists it.
        data: folder of the benchmark's data; None: it is given on the command line.
        limit: maximum number of questions; None: all.
        features: per stream, folder of published feature files that are read instead of the videos.
        without: ablations: one additional run per list, with the streams of the list switched off, for example
            ``[[audio], [speech]]``.
        rules: one additional run per entry, with these rules of the protocol changed, for example
            ``[{preprocessing: {num_frames: 16}}]``.
    """

    name: str
    data: FilePath | None = None
    limit: int | None = Field(default=None, gt=0)
    features: dict[str, FilePath] = Field(default_factory=dict)
    without: tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...] = ()
    rules: tuple[Annotated[dict[str, Any], Field(min_length=1)], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Recipe(Settings):
    """A system, its training stages in order, and its benchmarks.

    Args:
        system: name of the system, as ``vidtune systems`` lists it.
        language_model: folder or hub id of a causal language model, or a transformers config (with ``model_type``) to
            build one with random weights.
        tokenizer: folder or hub id of the tokenizer; None: the language model's own.
        towers: per tower, folder or hub id of its weights, or a config to build it with random weights. If a system is
            published without its towers, a tower that is not named is not built, and its features are read from files.
        checkpoint: folder or hub id of a whole model to start from, in the place of ``language_model``, ``towers`` and
            ``connectors``, which may not stand beside it. Connectors, a LoRA run or differences to a language model
            stand on the recipe's own parts.
        revision: branch, tag or commit of a ``checkpoint`` on the hub; None: the newest. Other hub ids are pinned by a
            suffix: ``org/name@REVISION``.
        connectors: per connector, folder or file of its weights, or sizes that differ from the published ones.
        lora_runs: folders or hub ids of published LoRA runs that are merged into the model, in this order, before the
            first stage.
        distillation: per stream, the teacher used in all stages.
        features: store for the outputs of frozen towers, so that each file is decoded and encoded only once: "auto"
            ($VIDTUNE_FEATURES, or ``features`` in the run's folder) or a folder; None: no store.
        seed: seed of initial weights, data order and random preprocessing.
        world: the synthetic world that ``vidtune demo`` renders for this recipe; DATA_ROOT is its folder.
        stages: training stages in the order in which they run.
        benchmarks: benchmarks that ``vidtune evaluate`` runs on the trained model.
        generation: decoding settings that differ from the protocol when benchmarks that the recipe lists are run.
        trackers: services that receive the metrics of a run in addition to its log.jsonl.
        packages: other packages whose parts the recipe names ("my-package", "my-package==1.0"); one that is not
            installed is refused, with the command that installs it.
    """

    system: str
    language_model: Place | dict[str, Any] | None = None
    tokenizer: FilePath | None = None
    towers: dict[str, Place | dict[str, Any]] = Field(default_factory=dict)
    checkpoint: FilePath | None = None
    revision: str | None = Field(default=None, min_length=1)
    connectors: dict[str, Place | dict[str, Any]] = Field(default_factory=dict)
    lora_runs: tuple[FilePath, ...] = ()
    distillation: dict[str, Distillation] = Field(default_factory=dict)
    features: FilePath | None = None
    seed: int = Field(default=42, ge=-(2**63), lt=2**63)
    world: Literal["shapes", "events", "targets", "moments"] | None = None
    stages: tuple[Stage, ...] = ()
    benchmarks: tuple[BenchmarkEntry, ...] = ()
    generation: dict[str, Any] = Field(default_factory=dict)
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ("tensorboard",)
    packages: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _packages_are_installed(cls, values: Any) -> Any:
        """Checked before all other values, because a missing package makes the names of its parts unknown."""
        packages = values.get("packages") if isinstance(values, dict) else None
        for place, package in enumerate(packages if isinstance(packages, list | tuple) else ()):
            try:
                wanted = Requirement(package)
            except (InvalidRequirement, TypeError):
                raise Misplaced(f"{package!r} is no name of a package", "packages", place) from None
            try:
                found = version(wanted.name)
            except PackageNotFoundError:
                found = ""
            if not found or not wanted.specifier.contains(found, prereleases=True):
                state = f"is here as {found}" if found else "is not installed"
                raise Misplaced(
                    f"the package {package!r}, whose parts this recipe names, {state}: pip install {package!r}",
                    "packages",
                    place,
                )
        return values

    @model_validator(mode="before")
    @classmethod
    def _sizes_are_possible(cls, values: Any) -> Any:
        """Refuse sizes that no model and no medium has, before anything is made that large."""
        if not isinstance(values, dict):
            return values
        parts = ("language_model", "towers", "connectors", "distillation")
        holders: list[tuple[tuple[Key, ...], Any]] = [((key,), values.get(key)) for key in parts]
        for kind, keys in (("stages", ("media", "sizes")), ("benchmarks", ("rules",))):
            entries = values.get(kind)
            for place, entry in enumerate(entries if isinstance(entries, list | tuple) else ()):
                if isinstance(entry, dict):
                    holders += [((kind, place, key), entry.get(key)) for key in keys]
        for path, holder in holders:
            if (found := absurd_size(holder, path)) is not None:
                where, value, limit = found
                raise Misplaced(f"{'.'.join(map(str, where))} {said_of(value, limit)}", *where)
        return values

    @model_validator(mode="after")
    def _has_a_language_model(self) -> "Recipe":
        if self.language_model is None and self.checkpoint is None:
            raise ValueError("give a language_model, or a checkpoint to start from")
        return self

    @model_validator(mode="after")
    def _revision_is_of_a_checkpoint(self) -> "Recipe":
        if self.revision is None:
            return self
        if self.checkpoint is None:
            raise Misplaced("belongs to a checkpoint; pin other hub ids as org/name@REVISION", "revision")
        if "@" in self.checkpoint:
            raise Misplaced(f"the checkpoint {self.checkpoint!r} names a revision already", "revision")
        return self

    @property
    def starting_place(self) -> str | None:
        """Folder or hub id of the checkpoint, with ``@REVISION`` where the recipe pins one; None: no checkpoint."""
        return self.checkpoint if self.revision is None else f"{self.checkpoint}@{self.revision}"

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
