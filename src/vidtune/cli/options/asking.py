"""Options of the commands that ask a checkpoint: how it is loaded, and how tokens are chosen."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidtune.cli.options.loading import (
    LayerProgram,
    ModelBase,
    Place,
    Quantize,
    Revision,
    System,
    Towers,
    assignments,
    layer_program_of,
)
from vidtune.cli.terminal.shown_text import warn
from vidtune.errors import UserError
from vidtune.machine.memory import uncollected

if TYPE_CHECKING:
    from vidtune.api.model import Model
    from vidtune.evaluation.models.base import EvaluatedModel
    from vidtune.machine.ranks.place import ProcessPlace


@dataclass(frozen=True)
class CheckpointOptions:
    """What completes a checkpoint, and where and in which precision it computes."""

    system: System = None
    model_base: ModelBase = None
    tower: Towers = None
    tokenizer: Annotated[str | None, typer.Option(help="When the checkpoint's folder holds none.")] = None
    device: Annotated[str | None, typer.Option(help="Of torch; default: a GPU when there is one.")] = None
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: the checkpoint's.")] = None
    quantize: Quantize = None
    place: Place = None


@dataclass(frozen=True)
class ModelOptions(CheckpointOptions):
    """The options of a checkpoint, and whose code answers."""

    transformers: Annotated[
        bool,
        typer.Option("--transformers", help="Answer by transformers' own model and processor, whatever vidtune knows."),
    ] = False

    def is_of_transformers(self, folder: Path) -> bool:
        """Whether a model of transformers answers, not one of vidtune's own. It loads torch, unless options say it."""
        from vidtune.evaluation.models.opening import is_of_transformers

        completed = self.system or self.model_base or self.tower or self.tokenizer
        if self.transformers and completed:
            raise UserError("--transformers: takes a whole model; leave out what completes one")
        return self.transformers or (not completed and is_of_transformers(folder))

    def open(self, folder: Path, place: "ProcessPlace") -> "EvaluatedModel":
        """Load the checkpoint on the device of this process, and print its warnings.

        A model of transformers loads its weights later, when its processor and the protocol are known to fit.
        """
        from vidtune.checkpoints.placement.place import Placement
        from vidtune.evaluation.checkpoint import open_checkpoint
        from vidtune.evaluation.models.opening import answering_model
        from vidtune.evaluation.models.pretrained import PretrainedModel
        from vidtune.machine.devices import pick_devices, pick_dtype
        from vidtune.machine.ranks.place import own_device

        pick_dtype(self.dtype)
        towers = assignments(self.tower, "--tower")
        device = own_device(place, self.device)
        placed = {part: pick_devices(name) for part, name in assignments(self.place, "--place").items()}
        placement = Placement(device, self.quantize, placed)  # type: ignore[arg-type]
        if self.is_of_transformers(folder):
            if self.quantize or placed:
                raise UserError("--quantize and --place: are for models of vidtune's systems, which this is not")
            return PretrainedModel(folder, device, self.dtype)
        loaded = open_checkpoint(
            folder,
            device,
            self.dtype,
            system=self.system,
            base=self.model_base,
            towers=towers,
            tokenizer=self.tokenizer,
            placement=placement,
            said=partial(typer.echo, err=True),
        )
        model = answering_model(loaded)
        for warning in model.warnings:
            warn(warning)
        return model


@dataclass(frozen=True)
class LoadingOptions(CheckpointOptions):
    """How a checkpoint is loaded."""

    revision: Revision = None
    layer_program: LayerProgram = None

    def given(self) -> dict[str, Any]:
        """The options as arguments of :func:`vidtune.load`. Raises UserError for values of another form."""
        return {
            "revision": self.revision,
            "system": self.system,
            "base": self.model_base,
            "towers": assignments(self.tower, "--tower"),
            "tokenizer": self.tokenizer,
            "device": self.device,
            "dtype": self.dtype,
            "quantize": self.quantize,
            "place": assignments(self.place, "--place"),
            "layer_program": layer_program_of(self.layer_program),
        }

    def load(
        self, checkpoint: str, *, name: str = "", without: Iterable[str] = (), beside: "Sequence[Model]" = ()
    ) -> "Model":
        """Load a checkpoint; its warnings go to standard error.

        Args:
            name: what the warnings begin with.
            without: arguments of :func:`vidtune.load` that are not for this checkpoint.
            beside: models whose weights it may share, see :func:`vidtune.load`.

        Raises:
            UserError: an option is wrong, or the checkpoint cannot be loaded.
        """
        import vidtune

        given = {argument: value for argument, value in self.given().items() if argument not in set(without)}
        with uncollected():
            model = vidtune.load(checkpoint, **given, said=partial(typer.echo, err=True), beside=beside)
        for warning in model.report.warnings if model.report else ():
            warn(f"{name and f'{name}: '}{warning}")
        return model


@dataclass(frozen=True)
class DecodingOptions:
    """How the tokens of an answer are chosen."""

    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token; above, tokens are drawn.")] = 0.0
    top_p: Annotated[float, typer.Option(help="Draw from the tokens that hold this share of probability.")] = 1.0
    seed: Annotated[int, typer.Option(help="Seed of the drawing.")] = 42

    def given(self) -> dict[str, Any]:
        """The options as arguments of :meth:`vidtune.Model.answer`. Raises UserError for impossible values."""
        from vidtune.generation.settings import GenerationSettings

        GenerationSettings(do_sample=self.temperature > 0, **asdict(self))
        return asdict(self)
