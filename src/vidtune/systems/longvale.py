"""LongVALE-LLM: a model of video, sound and speech with one linear layer per modality before Vicuna-7B v1.5.

The towers run outside the model: published checkpoints hold connectors and LoRA runs, which stand on the first stage of
VTimeLLM (arXiv:2311.18445). Moments are written in percent of the clip.

Source: arXiv:2411.19772, github.com/ttgeng233/LongVALE (constants, key names and prompts of commit 2eb88ce).
"""

import re
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from vidtune.checkpoints.files.settings import KnownSettings
from vidtune.checkpoints.publication import CheckpointFormat, JsonDict, KeyMap, NamedParts, Publication, Shapes
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing
from vidtune.media.preprocessing.sound import FbankPreprocessing, LogMelPreprocessing
from vidtune.models.architecture import Architecture, Sizes
from vidtune.models.config import VideoLMConfig
from vidtune.models.towers.clip_class import ClipClassTowerConfig
from vidtune.processing.dialect import Dialect
from vidtune.processing.prompts.cutting import Cut
from vidtune.processing.prompts.known import captions, with_roles
from vidtune.systems.base import System
from vidtune.systems.parts.llava_settings import LLAMA, read_text_config, stored_sizes, text_settings
from vidtune.systems.parts.microsoft_beats import BEATS_TOWER
from vidtune.systems.parts.openai_clip import CLASS_TOWER
from vidtune.systems.parts.openai_whisper import ENCODER_TOWER
from vidtune.systems.parts.vicuna import CURIOUS_USER, LANGUAGE_MODEL_ENDS, LANGUAGE_MODEL_KEYS

NAME = "longvale"
MODEL_TYPE = "LongVALE-LLM"

PROMPTS = {
    "v1": with_roles("v1", CURIOUS_USER, cut=Cut(r"From \d+ to \d+,", rejoined=True)),
    "plain": captions("plain", ("video", "image"), after_tag="\n"),
}

# Tower -> its type, the width of its features, and the name of its published weights, used where it is absent.
_TOWERS: dict[str, tuple[JsonDict, int, str]] = {
    "vision": ({"type": "clip_class"}, 768, "ViT-L-14.pt"),
    "audio": ({"type": "beats"}, 768, "BEATs_iter3_plus_AS20K.pt"),
    "speech": ({"type": "whisper"}, 1280, "openai/whisper-large-v2"),
}
_CONNECTORS = {"visual": "vision", "audio": "audio", "speech": "speech"}
_STREAMS = {
    "video": ("vision", "visual"),
    "image": ("vision", "visual"),
    "audio": ("audio", "audio"),
    "speech": ("speech", "speech"),
}


def build_config(text_config: PreTrainedConfig, towers: Sizes, connectors: Sizes) -> VideoLMConfig:
    """Return the config. Each modality has a tower and a connector; a tower that is not given is absent."""
    specs = {
        name: {**spec, **towers[name]} if name in towers else {**spec, "absent": published}
        for name, (spec, _, published) in _TOWERS.items()
    }
    mlps = {
        name: {
            "type": "mlp",
            "input_size": specs[tower].get("hidden_size", _TOWERS[tower][1]),
            "output_size": text_config.hidden_size,
            "depth": 1,
            **connectors.get(name, {}),
        }
        for name, tower in _CONNECTORS.items()
    }
    return VideoLMConfig(
        system=NAME,
        text_config=text_config,
        towers=specs,
        connectors=mlps,
        streams={name: {"tower": tower, "connector": connector} for name, (tower, connector) in _STREAMS.items()},
    )


def preprocessing(config: VideoLMConfig) -> dict[str, Preprocessing]:
    """Return the preprocessing by which the published features were made.

    Frames are resized without antialiasing; sound is resampled to 16 kHz by taking the nearest samples. New data may
    use clean resampling (``media`` in a stage); published features cannot.
    """
    tower = config.tower("vision")
    assert isinstance(tower, ClipClassTowerConfig)
    return {
        "video": VideoPreprocessing(
            size=tower.image_size,
            num_frames=tower.num_frames,
            interpolation="bicubic",
            order="resize_then_normalize",
        ),
        "image": ImagePreprocessing(size=tower.image_size),
        "audio": FbankPreprocessing(resampling="nearest"),
        "speech": LogMelPreprocessing(resampling="nearest"),
    }


_CONNECTOR_KEYS = (
    ("model.mm_projector.", "connectors.visual.0."),
    ("model.audio_mm_projector.", "connectors.audio.0."),
    ("model.asr_mm_projector.", "connectors.speech.0."),
)
_OFFICIAL_KEYS = KeyMap((*_CONNECTOR_KEYS, *LANGUAGE_MODEL_KEYS), (r".*\.rotary_emb\.inv_freq$",))
# Whole prefixes, because the published loader takes every name that contains "mm_projector" and mixes the three up.
_PROJECTOR_KEYS = KeyMap(
    tuple(
        (prefix + theirs.removeprefix("model."), ours)
        for prefix in ("model.", "base_model.model.model.", "")
        for theirs, ours in _CONNECTOR_KEYS
    )
)
_PROJECTOR = re.compile(r"(base_model\.model\.)?(model\.)?(audio_|asr_)?mm_projector\.(weight|bias)")


_SETTINGS = LLAMA | KnownSettings(
    nested={"vidtune_towers": KnownSettings(read=frozenset(_TOWERS))},
    ignored={"how it was trained": ("tune_*", "freeze_*", "pretrain_*", "training_stage", "use_mm_proj", "*_lr")},
)


def _is_official(config: JsonDict, shapes: Shapes) -> bool:
    names = set(shapes)
    return any(key.startswith(LANGUAGE_MODEL_ENDS) for key in names) and "model.asr_mm_projector.weight" in names


def _is_projector(config: JsonDict, shapes: Shapes) -> bool:
    """Whether these are connectors of one linear layer, that of vision among them, beside no config of a LLaVA."""
    names = list(shapes)
    has_visual = any(name.split(".")[-2] == "mm_projector" for name in names if "." in name)
    return has_visual and "mm_video_tower" not in config and all(_PROJECTOR.fullmatch(name) for name in names)


def _is_ours(config: JsonDict, shapes: Shapes) -> bool:
    """Whether a file of connectors, or the config beside it, tells that it is of this system.

    It has connectors of sound, or the one of vision takes the class features of CLIP: other LLaVAs take patches.
    """
    told = "vidtune_towers" in config or config.get("model_type") == MODEL_TYPE
    visual = next((shape for name, shape in shapes.items() if re.search(r"(^|\.)mm_projector\.weight$", name)), ())
    return told or visual[1:] == (_TOWERS["vision"][1],) or _has_sound(shapes)


def _has_sound(shapes: Shapes) -> bool:
    return any("audio_mm_projector" in name or "asr_mm_projector" in name for name in shapes)


def _is_lora(config: JsonDict, shapes: Shapes) -> bool:
    names = list(shapes)
    return _has_sound(shapes) and all(_PROJECTOR.fullmatch(name) for name in names)


def _stored_sizes(config: JsonDict) -> dict[str, dict[str, Any]]:
    """Absent towers with their sizes, if the config was written by this package; published configs hold no sizes."""
    published = {name: place for name, (_, _, place) in _TOWERS.items()}
    return {name: {"absent": place, **stored_sizes(config, "towers", name)} for name, place in published.items()}


def _read_official(config: JsonDict, shapes: dict[str, tuple[int, ...]]) -> VideoLMConfig:
    text_config = read_text_config(config)
    towers = _stored_sizes(config)
    for theirs, ours in _CONNECTOR_KEYS:
        towers[_CONNECTORS[ours.split(".")[1]]]["hidden_size"] = shapes[theirs + "weight"][1]
    return build_config(text_config, towers, {})


def _write_official(config: VideoLMConfig, towers: Mapping[str, str]) -> JsonDict:
    if any(connector["depth"] != 1 for connector in config.connectors.values()):
        raise ValueError("a connector is not one linear layer, which is all that the format has")
    return {
        **text_settings(config.text_config),
        "model_type": MODEL_TYPE,
        "architectures": ["LongVALELLMLlamaForCausalLM"],
        "vidtune_towers": {
            name: {key: value for key, value in spec.items() if key not in ("type", "absent")}
            for name, spec in config.towers.items()
        },
    }


SYSTEM = System(
    name=NAME,
    title="LongVALE-LLM",
    paper="arXiv:2411.19772",
    repository="https://github.com/ttgeng233/LongVALE",
    dialect=Dialect(
        prompts=PROMPTS,
        training_prompt="v1",
        answering_prompt="v1",
        max_media={"video": 1, "image": 1},
        companions={"video": ("audio", "speech")},
        times="percent",
    ),
    architecture=Architecture(build_config, preprocessing),
    publication=Publication(
        formats=(
            CheckpointFormat(
                name="official",
                settings=_SETTINGS,
                keys=_OFFICIAL_KEYS,
                matches=_is_official,
                read_config=_read_official,
                write_config=_write_official,
                without=("towers",),
            ),
            CheckpointFormat(
                name="official_lora",
                settings=_SETTINGS,
                keys=_OFFICIAL_KEYS,
                matches=_is_lora,
                write_config=_write_official,
                partial=("connectors.audio", "connectors.speech"),
                adapter=True,
            ),
            CheckpointFormat(
                name="projector",
                certain=_is_ours,
                settings=_SETTINGS,
                keys=_PROJECTOR_KEYS,
                matches=_is_projector,
                partial=("connectors.visual",),
                file_name="mm_projector.bin",
            ),
        ),
        towers={"vision": CLASS_TOWER, "audio": BEATS_TOWER, "speech": ENCODER_TOWER},
        named_parts=lambda config: NamedParts(towers=_stored_sizes(config)),
    ),
)
