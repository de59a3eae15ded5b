"""Options of the commands that ask a checkpoint: how it is loaded, and how tokens are chosen."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
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
from vidtune.machine.memory import uncollected

if TYPE_CHECKING:
    from vidtune.api.model import Model


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

    def load(self, checkpoint: str, *, name: str = "", without: Iterable[str] = ()) -> "Model":
        """Load a checkpoint; its warnings go to standard error.

        Args:
            name: what the warnings begin with.
            without: arguments of :func:`vidtune.load` that are not for this checkpoint.

        Raises:
            UserError: an option is wrong, or the checkpoint cannot be loaded.
        """
        import vidtune

        given = {argument: value for argument, value in self.given().items() if argument not in set(without)}
        with uncollected():
            model = vidtune.load(checkpoint, **given, said=partial(typer.echo, err=True))
        for warning in model.report.warnings if model.report else ():
            typer.echo(f"warning: {name and f'{name}: '}{warning}", err=True)
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
