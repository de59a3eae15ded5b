"""Video-LLaVA: image and video towers aligned before projection, one shared MLP connector, Vicuna-7B v1.5.

Source: arXiv:2311.10122, github.com/PKU-YuanGroup/Video-LLaVA (constants, key names and prompts of commit 984e65b).
"""

import re
from collections.abc import Mapping

from transformers import AutoConfig, CLIPVisionConfig, PreTrainedConfig

from vidtune.checkpoints.files.settings import KnownSettings
from vidtune.checkpoints.parts.model_settings import ANY_MODEL, settings_of
from vidtune.checkpoints.publication import CheckpointFormat, JsonDict, KeyMap, NamedParts, Publication, Shapes
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing
from vidtune.models.architecture import Architecture, Sizes
from vidtune.models.config import VideoLMConfig
from vidtune.processing.dialect import Dialect
from vidtune.processing.prompts.known import captions, with_roles
from vidtune.systems.base import System
from vidtune.systems.parts.languagebind import LANGUAGEBIND_TOWER
from vidtune.systems.parts.llava_settings import (
    LLAMA,
    LLAVA,
    projector_depth,
    projector_kind,
    read_text_config,
    require_width,
    stored_sizes,
    text_of,
    text_settings,
)
from vidtune.systems.parts.openai_clip import patch_sizes, patch_tower_settings
from vidtune.systems.parts.vicuna import CURIOUS_HUMAN, CURIOUS_USER, LANGUAGE_MODEL_ENDS

NAME = "video_llava"

PROMPTS = {
    "v1": with_roles("v1", CURIOUS_USER),
    "vicuna_v1": with_roles("vicuna_v1", CURIOUS_USER),
    "llava_v1": with_roles("llava_v1", CURIOUS_HUMAN),
    "llava_v0": with_roles("llava_v0", CURIOUS_HUMAN, "Human", "Assistant", ("###", "###")),
    "plain": captions("plain", ("image",)),
    "user_assistant": with_roles("user_assistant", "", after_system=""),
}

_CLIP: JsonDict = {"type": "clip", "hidden_act": "gelu"}
_IMAGE_TOWER = {**_CLIP, "num_frames": None, "temporal_attention": False, "keep_class_token": False}
_VIDEO_TOWER = {**_CLIP, "num_frames": 8, "temporal_attention": True, "keep_class_token": True}
_TOWERS = {"image": _IMAGE_TOWER, "video": _VIDEO_TOWER}


def build_config(text_config: PreTrainedConfig, towers: Sizes, connectors: Sizes) -> VideoLMConfig:
    """Return the config. Both towers feed one connector; default sizes are the published ones (ViT-L/14, 8 frames)."""
    specs = {name: {**published, **towers.get(name, {})} for name, published in _TOWERS.items()}
    widths = {name: spec.get("hidden_size", 1024) for name, spec in specs.items()}
    if widths["image"] != widths["video"]:
        raise ValueError(f"the towers share one connector, so their hidden_size must agree: {widths}")
    mlp = {"type": "mlp", "input_size": widths["video"], "output_size": text_config.hidden_size, "depth": 2}
    return VideoLMConfig(
        system=NAME,
        text_config=text_config,
        towers=specs,
        connectors={"visual": {**mlp, **connectors.get("visual", {})}},
        streams={name: {"tower": name, "connector": "visual"} for name in _TOWERS},
    )


def preprocessing(config: VideoLMConfig) -> dict[str, Preprocessing]:
    """Return the preprocessing of the original code: resized without antialiasing.

    A model without attention over time comes from the transformers format, which was used with antialiased bicubic
    frames and another sampling rule.
    """
    image, video = (config.tower(name).input_shape() for name in ("image", "video"))
    if config.towers["video"]["temporal_attention"]:
        return {
            "image": ImagePreprocessing(size=image[-1]),
            "video": VideoPreprocessing(size=video[-1], num_frames=video[1]),
        }
    return {
        "image": ImagePreprocessing(size=image[-1], antialias=True),
        "video": VideoPreprocessing(
            size=video[-1],
            num_frames=video[1],
            sampling="arange",
            interpolation="bicubic",
            antialias=True,
            order="resize_then_normalize",
        ),
    }


def _placeholders(config: VideoLMConfig, stream: str) -> int:
    """Number of placeholders of an item: one per frame of a clip, one for a picture."""
    shape = config.tower(config.streams[stream]["tower"]).input_shape()
    return shape[1] if len(shape) == 4 else 1


_TEXT_KEYS = (("model.", "language_model.model."), ("lm_head.", "language_model.lm_head."))
_IGNORED = (r".*\.rotary_emb\.inv_freq$", r".*\.position_ids$")
_OFFICIAL_KEYS = KeyMap(
    (
        ("model.image_tower.image_tower.", "towers.image."),
        ("model.video_tower.video_tower.", "towers.video."),
        ("model.mm_projector.", "connectors.visual."),
        *_TEXT_KEYS,
    ),
    _IGNORED,
)
_PROJECTOR_KEYS = KeyMap(
    (
        ("model.mm_projector.", "connectors.visual."),
        ("base_model.model.model.mm_projector.", "connectors.visual."),
        ("mm_projector.", "connectors.visual."),
    )
)
_TRANSFORMERS_KEYS = KeyMap(
    (
        ("language_model.", "language_model."),
        ("image_tower.vision_model.", "towers.image."),
        ("video_tower.vision_model.", "towers.video."),
        ("multi_modal_projector.linear_1.", "connectors.visual.0."),
        ("multi_modal_projector.linear_2.", "connectors.visual.2."),
        ("model.language_model.", "language_model.model."),
        ("model.image_tower.vision_model.", "towers.image."),
        ("model.video_tower.vision_model.", "towers.video."),
        ("model.image_tower.", "towers.image."),
        ("model.video_tower.", "towers.video."),
        ("model.multi_modal_projector.linear_1.", "connectors.visual.0."),
        ("model.multi_modal_projector.linear_2.", "connectors.visual.2."),
        ("lm_head.", "language_model.lm_head."),
    ),
    _IGNORED,
)


_SETTINGS = LLAVA | KnownSettings(
    read=frozenset({"mm_image_tower", "mm_video_tower"}),
    nested={"vidtune_towers": KnownSettings(read=frozenset(_TOWERS))},
    only={
        "mm_vision_select_feature": ("patch", "cls_patch"),
        "X": (["Video", "Image"], ["Image", "Video"], ["Video"]),
        "mm_use_x_start_end": (False, None),
        "mm_use_x_patch_token": (False, None),
    },
)
_TRANSFORMERS_SETTINGS = ANY_MODEL | KnownSettings(
    only={
        "projector_hidden_act": ("gelu",),
        "multimodal_projector_bias": (True,),
        "vision_feature_select_strategy": ("default", "full"),
    },
    read=frozenset({"vision_feature_layer", "tie_word_embeddings"}),
    nested={
        "text_config": LLAMA,
        "vision_config": settings_of(CLIPVisionConfig)
        | KnownSettings(only={"num_channels": (3,)}, ignored={"used with its text only": ("vocab_size",)}),
    },
    ignored={
        "placeholders, which our prompts write": (
            *("image_token_index", "video_token_index", "image_token_id", "video_token_id", "ignore_index"),
            *("image_seq_length", "video_seq_length", "pad_token_id", "bos_token_id", "eos_token_id", "vocab_size"),
        ),
    },
)


def _is_official(config: JsonDict, shapes: Shapes) -> bool:
    if config.get("model_type", "llava") != "llava":
        return False
    return _names_video(config, shapes) and any(key.startswith(LANGUAGE_MODEL_ENDS) for key in shapes)


def _is_projector(config: JsonDict, shapes: Shapes) -> bool:
    names = list(shapes)
    numbered = config.get("mm_projector_type") == "linear" or all(re.search(r"\.\d+\.\w+$", key) for key in names)
    return bool(names) and numbered and all(_PROJECTOR_KEYS.to_ours(key) for key in names)


def _names_video(config: JsonDict, shapes: Shapes) -> bool:
    """Whether a config.json names a tower of videos, which no other LLaVA has."""
    return bool("Video" in (config.get("X") or ()) or config.get("mm_video_tower"))


def _is_transformers(config: JsonDict, shapes: Shapes) -> bool:
    return config.get("model_type") == "video_llava"


def _connector_sizes(config: JsonDict) -> dict[str, JsonDict]:
    return {"visual": {"depth": projector_depth(config.get("mm_projector_type", "mlp2x_gelu"))}}


def _tower_names(config: JsonDict) -> dict[str, str]:
    published = {"image": "LanguageBind/LanguageBind_Image", "video": "LanguageBind/LanguageBind_Video_merge"}
    return {name: text_of(config, f"mm_{name}_tower", default) for name, default in published.items()}


def _named_parts(config: JsonDict) -> NamedParts:
    return NamedParts(_tower_names(config), _connector_sizes(config))


def _sizes_from_shapes(prefix: str, shapes: Shapes) -> JsonDict:
    """Tower sizes from tensor shapes, because the published config.json names the towers without their sizes."""
    frames = shapes.get(prefix + "encoder.layers.0.temporal_embedding")
    return {**patch_sizes(prefix, shapes), **({"num_frames": frames[1]} if frames else {})}


def _read_official(config: JsonDict, shapes: dict[str, tuple[int, ...]]) -> VideoLMConfig:
    text_config = read_text_config(config)
    towers = {
        name: {
            **_sizes_from_shapes(f"model.{name}_tower.{name}_tower.", shapes),
            "feature_layer": config.get("mm_vision_select_layer", -2),
            **stored_sizes(config, "towers", name),
        }
        for name in _TOWERS
    }
    towers["image"]["keep_class_token"] = config.get("mm_vision_select_feature", "patch") == "cls_patch"
    ours = build_config(text_config, towers, _connector_sizes(config))
    require_width(config, ours.connectors["visual"]["input_size"])
    return ours


def _write_official(config: VideoLMConfig, towers: Mapping[str, str]) -> JsonDict:
    if not config.towers["video"]["temporal_attention"]:
        raise ValueError("the video tower has no attention over time, which the official format needs")
    depth = config.connectors["visual"]["depth"]
    image = config.towers["image"]
    return {
        **text_settings(config.text_config),
        "model_type": "llava",
        "architectures": ["LlavaLlamaForCausalLM"],
        **{f"mm_{name}_tower": path for name, path in {**_tower_names({}), **towers}.items()},
        "mm_hidden_size": config.connectors["visual"]["input_size"],
        "mm_projector_type": projector_kind(depth),
        "mm_vision_select_layer": image.get("feature_layer", -2),
        "mm_vision_select_feature": "cls_patch" if image["keep_class_token"] else "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "use_mm_proj": True,
        "image_aspect_ratio": "pad",
        "vidtune_towers": {
            name: {k: v for k, v in spec.items() if k != "type"} for name, spec in config.towers.items()
        },
    }


def _read_transformers(config: JsonDict, shapes: dict[str, tuple[int, ...]]) -> VideoLMConfig:
    whole = AutoConfig.for_model(**config)
    vision = whole.vision_config
    sizes = {
        **patch_tower_settings(vision),
        "feature_layer": config.get("vision_feature_layer", -2),
    }
    keep = config.get("vision_feature_select_strategy", "default") == "full"
    towers = {"image": {**sizes, "keep_class_token": keep}, "video": {**sizes, "temporal_attention": False}}
    return build_config(whole.text_config, towers, {})


def _transformers_warnings(config: VideoLMConfig) -> list[str]:
    act = config.towers["video"]["hidden_act"]
    return [
        "this is the transformers format of Video-LLaVA: its conversion dropped the video tower's attention over time "
        f"and runs the towers with {act!r}; answers differ from the original checkpoint, and it cannot be converted "
        "back without LanguageBind's video weights"
    ]


SYSTEM = System(
    name=NAME,
    title="Video-LLaVA",
    paper="arXiv:2311.10122",
    repository="https://github.com/PKU-YuanGroup/Video-LLaVA",
    dialect=Dialect(
        prompts=PROMPTS,
        training_prompt="v1",
        answering_prompt="llava_v1",
        max_media={"image": 16, "video": 1},
    ),
    architecture=Architecture(build_config, preprocessing, _placeholders),
    publication=Publication(
        formats=(
            CheckpointFormat(
                name="official",
                settings=_SETTINGS,
                keys=_OFFICIAL_KEYS,
                matches=_is_official,
                read_config=_read_official,
                write_config=_write_official,
            ),
            CheckpointFormat(
                name="transformers",
                settings=_TRANSFORMERS_SETTINGS,
                keys=_TRANSFORMERS_KEYS,
                matches=_is_transformers,
                read_config=_read_transformers,
                warnings=_transformers_warnings,
            ),
            CheckpointFormat(
                name="official_lora",
                certain=_names_video,
                settings=_SETTINGS,
                keys=_OFFICIAL_KEYS,
                matches=_is_projector,
                write_config=_write_official,
                partial=("connectors.visual",),
                adapter=True,
            ),
            CheckpointFormat(
                name="projector",
                certain=_names_video,
                settings=_SETTINGS,
                keys=_PROJECTOR_KEYS,
                matches=_is_projector,
                partial=("connectors.visual",),
                file_name="mm_projector.bin",
            ),
        ),
        towers=dict.fromkeys(_TOWERS, LANGUAGEBIND_TOWER),
        named_parts=_named_parts,
    ),
)
