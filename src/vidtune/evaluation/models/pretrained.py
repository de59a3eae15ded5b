"""Any image-text-to-text model of transformers: its files, its own processor and its chat template.

Code that lies beside the weights (``trust_remote_code``) is never run: the model has to be one that transformers knows.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidtune.errors import UserError, errors_of
from vidtune.evaluation.models.base import Engine, EvaluatedModel
from vidtune.evaluation.protocol import Protocol
from vidtune.evaluation.runs.checkpoint_identity import identify_checkpoint
from vidtune.evaluation.runs.run_info import Arithmetic, arithmetic_of
from vidtune.foreign.documents import read_object
from vidtune.foreign.model_settings import require_loadable
from vidtune.machine.devices import pick_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from vidtune.evaluation.benchmarks.base import Benchmark
    from vidtune.evaluation.checkpoint import AnsweringOptions

IMAGES = "--protocol preprocessing.given=images"


class PretrainedModel(EvaluatedModel):
    """A model of transformers in a folder. Its weights are loaded when they are first needed.

    Args:
        path: folder with config.json, weights, processor and tokenizer.
        device: of torch.
        dtype: name of a torch type; None keeps the stored one.

    Raises:
        UserError: transformers knows no such model.
    """

    def __init__(self, path: Path, device: str = "cpu", dtype: str | None = None) -> None:
        self.path, self.device, self.dtype = path, device, dtype
        settings = require_loadable(path)
        self.model_type = str(settings.get("model_type"))
        if self.model_type not in known_models():
            raise UserError(unknown_model(path, self.model_type))
        self.identity = identify_checkpoint(path)
        self.system = f"transformers:{self.model_type}"
        self._processors: dict[str, ProcessorMixin] = {}

    @cached_property
    def model(self) -> "PreTrainedModel":
        """The model, in inference mode.

        Raises:
            UserError: weights are missing in the files, or it cannot be loaded.
        """
        from transformers import AutoModelForMultimodalLM

        from vidtune.checkpoints.files.quiet import without_progress_bar  # weight: transformers

        kind = pick_dtype(self.dtype) or "auto"
        with errors_of(f"{self.path}: cannot be loaded by transformers"), without_progress_bar():
            model, report = AutoModelForMultimodalLM.from_pretrained(
                self.path,
                dtype=kind,
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
        if missing := sorted(report["missing_keys"]):
            shown = ", ".join(missing[:3])
            raise UserError(f"{self.path}: {len(missing)} weights are not in its files ({shown}); they would be random")
        return model.to(self.device).eval()

    @property
    def arithmetic(self) -> Arithmetic:
        return arithmetic_of(self.model)

    def processor(self, given: str) -> "ProcessorMixin":
        """Returns the processor of the model; for ``images`` without the part that reads videos."""
        if given not in self._processors:
            self._processors[given] = load_processor(self.path, self.model_type, given)
        return self._processors[given]

    def protocol(
        self,
        benchmark: "Benchmark",
        *,
        blind: bool = False,
        without: Sequence[str] = (),
        features: Sequence[str] = (),
        overrides: Mapping[str, Any] | None = None,
    ) -> Protocol:
        from vidtune.evaluation.models.rules import protocol_by_frames  # weight: torch

        own = {"given": "video" if takes_videos(self.path, self.model_type) else "images"}
        protocol, rule = protocol_by_frames(
            benchmark, "", own, self.system, blind=blind, without=without, features=features, overrides=overrides
        )
        given = "images" if protocol.stream == "image" else rule.given
        name = template_name(self.processor(given), self.path)
        return protocol.model_copy(update={"prompt_format": name})

    def engine(self, protocol: Protocol, options: "AnsweringOptions") -> AbstractContextManager[Engine]:
        from vidtune.evaluation.models.pretrained_engine import PretrainedEngine

        return PretrainedEngine(self, protocol, options)


def known_models() -> Mapping[str, str]:
    """Model type -> class, of the models of transformers that read pictures or videos with text and write text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

    return MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES


def unknown_model(path: Path, model_type: str) -> str:
    """Returns what is wrong with a model that neither this package nor transformers knows."""
    from transformers import __version__

    return (
        f"{path}: model_type {model_type!r} is of no system of vidtune and no image-text-to-text model of transformers "
        f"{__version__}; code that lies beside weights is never run: use a version of transformers that has it"
    )


def takes_videos(path: Path, model_type: str) -> bool:
    """Whether the processor of a model reads videos."""
    return "video_processor" in processor_class(path, model_type).get_attributes()


def processor_class(path: Path, model_type: str) -> Any:
    """Returns the class of the processor of a model. Raises UserError where there is none."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES, processor_class_from_name

    named = None
    for file in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        if named is None and (path / file).is_file():
            named = read_object(path / file).get("processor_class")
    name = named or PROCESSOR_MAPPING_NAMES.get(model_type)
    name = name[0] if isinstance(name, tuple | list) else name
    found = processor_class_from_name(name) if isinstance(name, str) else None
    if found is None:
        raise UserError(f"{path}: transformers has no processor for model_type {model_type!r} ({name})")
    return found


def load_processor(path: Path, model_type: str, given: str) -> "ProcessorMixin":
    """Returns the processor of a model.

    Args:
        given: "video", or "images": then the part that reads videos is left out, and pictures are read by Pillow, so
            that torchvision is not needed and changes nothing.

    Raises:
        UserError: it cannot be loaded; says what to install where a package is missing.
    """
    kind = processor_class(path, model_type)
    if given == "video":
        if "video_processor" not in kind.get_attributes():
            raise UserError(f"{path}: {kind.__name__} takes no videos; give frames as pictures: {IMAGES}")
        _require_torchvision(path, kind.__name__)
    try:
        with errors_of(f"{path}: its processor cannot be loaded", ImportError):
            if given == "video":
                return kind.from_pretrained(path, trust_remote_code=False, local_files_only=True)
            return _processor_of_images(path, kind)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: {kind.__name__} needs a package that is not installed: {reason}") from None


def _require_torchvision(path: Path, name: str) -> None:
    from torch import __version__
    from transformers.utils.import_utils import is_torchvision_available

    if not is_torchvision_available():
        raise UserError(
            f"{path}: {name} reads videos by torchvision: `pip install torchvision` of the build of torch "
            f"{__version__}, or give frames as pictures: {IMAGES}"
        )


def _processor_of_images(path: Path, kind: Any) -> "ProcessorMixin":
    """A processor made of its parts for text and pictures."""
    from transformers import AutoImageProcessor, AutoTokenizer
    from transformers.video_processing_utils import VideoProcessorMixin

    class NoVideos(VideoProcessorMixin):
        """Stands where processors ask for a part that reads videos."""

        num_frames = fps = None

    class OfImages(kind):
        """The processor; transformers cannot check the class of its last part where torchvision is missing."""

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if isinstance(argument, NoVideos):
                return NoVideos
            return super().check_argument_for_proper_class(argument_name, argument)

    own = {"trust_remote_code": False, "local_files_only": True}
    parts: list[Any] = []
    for name in kind.get_attributes():
        if name == "tokenizer":
            parts.append(AutoTokenizer.from_pretrained(path, **own))
        elif name == "image_processor":
            parts.append(AutoImageProcessor.from_pretrained(path, backend="pil", **own))
        elif name == "video_processor":
            parts.append(NoVideos())
        else:
            raise UserError(f"{path}: {kind.__name__} needs a {name}; give whole videos instead")
    settings, _ = kind.get_processor_dict(path, local_files_only=True)
    return OfImages.from_args_and_dict(parts, settings)


def template_name(processor: "ProcessorMixin", path: Path) -> str:
    """Returns the name of a prompt format that stands for a chat template and the processor that fills it.

    Raises:
        UserError: there is no chat template.
    """
    template = processor.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template is None:
        raise UserError(f"{path}: its processor has no chat template; put its chat_template.jinja into the folder")
    kind = next(one.__name__ for one in type(processor).__mro__ if one.__module__.startswith("transformers."))
    text = json.dumps([kind, template])
    return f"chat_template-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
