"""Public functions that load a model and ask it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vidtune.api.arguments import names_arguments
from vidtune.api.chat import Chat
from vidtune.api.model import Model
from vidtune.processing.asked_media import Paths, as_paths

if TYPE_CHECKING:
    import torch


@names_arguments
def load(
    checkpoint: str | Path,
    *,
    revision: str | None = None,
    system: str | None = None,
    base: Paths = None,
    towers: Mapping[str, str] | None = None,
    tokenizer: str | None = None,
    device: str | None = None,
    dtype: "str | torch.dtype | None" = None,
    layer_program: Sequence[Mapping[str, Any]] | None = None,
    quantize: 'Literal["4bit", "8bit"] | None' = None,
    place: Mapping[str, str] | None = None,
    said: Callable[[str], object] | None = None,
    beside: Sequence[Model] = (),
) -> Model:
    """Load a model from a checkpoint in any known format.

    Args:
        checkpoint: folder, file or hub id.
        revision: branch, tag or commit of a hub repository.
        system: name of the system, for a checkpoint that several systems claim.
        base: what a checkpoint that is not whole stands on, bottom up: language model, connector file, LoRA runs; or
            where the base of a LoRA result has moved to.
        towers: tower -> file, folder or hub id of its weights, for a checkpoint that comes without it.
        tokenizer: folder or hub id, when the checkpoint's folder holds none.
        device: of torch; None: a GPU when there is one.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``, or the dtype of torch; None: the checkpoint's.
        layer_program: steps that drop media tokens between decoder layers, such as
            ``[{"after": 18, "drop": ["video"], "keep": 0.25, "rule": "attention", "compact": True}]``, in the place of
            the checkpoint's own; ``[]``: none; None: the checkpoint's.
        quantize: bits in which the language model is held, by bitsandbytes; None: as its dtype says.
        place: part (``"towers"`` or ``"language_model"``) -> device in the place of ``device``. The layers of a
            language model that does not fit one GPU are divided over several: ``{"language_model": "cuda:0,cuda:1"}``,
            or ``"auto"`` for all GPUs.
        said: function that is told, before the weights are read, how much memory they need; of large models alone.
        beside: models that were loaded before. Where one of them is the base of this checkpoint's adapters, its weights
            are shared, and adapters are computed beside them: answers equal those of merged ones up to rounding.

    Raises:
        UserError: no checkpoint there, an unknown format, missing or unexpected keys, no tokenizer, a layer program
            that does not fit the model, or weights that are larger than a device.

    Example:
        >>> type(vidtune.load("tiny-model")).__name__
        'Model'
    """
    from vidtune.checkpoints.load import load_checkpoint
    from vidtune.checkpoints.placement.place import Placement
    from vidtune.machine.devices import pick_device, pick_devices, pick_dtype

    parts = {part: pick_devices(name) for part, name in (place or {}).items()}
    placement = Placement(pick_device(device), quantize, parts)
    loaded = load_checkpoint(
        checkpoint,
        revision=revision,
        system=system,
        base=[str(place) for place in as_paths(base)] if not isinstance(base, str) else base,
        towers=towers,
        tokenizer=tokenizer,
        dtype=pick_dtype(dtype),
        placement=placement,
        said=said,
        others=[(one.network, one._loaded_from) for one in beside],
    )
    if layer_program is not None:
        loaded.model.use_layer_program(layer_program)
    return Model(loaded.model, loaded.processor, loaded.report, checkpoint, loaded.source)


def answer(model: Model | str | Path, question: str | Sequence[str], **options: Any) -> Any:
    """Answer questions with a model or a checkpoint; see :meth:`Model.answer`.

    Example:
        >>> len(vidtune.answer("tiny-model", "What moves?", video="clip.mp4", max_new_tokens=4)) > 0
        True
    """
    return _model(model).answer(question, **options)


def stream(model: Model | str | Path, question: str, **options: Any) -> Iterator[str]:
    """Pieces of an answer as they become certain; see :meth:`Model.stream`.

    Example:
        >>> type(next(vidtune.stream("tiny-model", "What moves?", video="clip.mp4", max_new_tokens=4)))
        <class 'str'>
    """
    return _model(model).stream(question, **options)


def chat(model: Model | str | Path, **options: Any) -> Chat:
    """A conversation with a model or a checkpoint; see :meth:`Model.chat`.

    Example:
        >>> vidtune.chat("tiny-model", video="clip.mp4").turns
        ()
    """
    return _model(model).chat(**options)


def _model(model: Model | str | Path) -> Model:
    return model if isinstance(model, Model) else load(model)
