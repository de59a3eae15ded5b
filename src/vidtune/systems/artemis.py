"""Artemis: talking about one target in a video, by Vicuna-7B v1.5 and CLIP ViT-L/14.

The whole video enters as means of CLIP features over space and over time, as in Video-ChatGPT (arXiv:2306.05424). The
target enters as tokens of boxes: one of the box that is asked about, and those of a few of its tracked boxes, which
K-means chooses. The placeholder ``<bbox>`` of the official texts is the tag of a box here; those of the tracked boxes
are one tag.

Source: arXiv:2406.00258, github.com/NeurIPS24Artemis/Artemis (constants, key names and prompts of commit e6c6679).
"""

import re
from collections.abc import Mapping
from math import gcd, isqrt
from typing import Any

from transformers import PreTrainedConfig

from vidtune.checkpoints.files.settings import KnownSettings
from vidtune.checkpoints.publication import CheckpointFormat, JsonDict, KeyMap, NamedParts, Publication, Shapes
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.media.preprocessing.regions import RegionPreprocessing
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing
from vidtune.models.architecture import Architecture, Sizes
from vidtune.models.config import VideoLMConfig
from vidtune.models.connectors.base import connector_config
from vidtune.models.connectors.region import RegionConnectorConfig
from vidtune.models.towers.base import tower_config
from vidtune.models.towers.clip_pooled import PooledClipTowerConfig
from vidtune.processing.dialect import Dialect
from vidtune.processing.prompts.format import Placement
from vidtune.processing.prompts.known import with_roles
from vidtune.systems.base import System
from vidtune.systems.parts.llava_settings import (
    LLAVA,
    projector_depth,
    projector_kind,
    read_text_config,
    require_same_text,
    require_width,
    stored_sizes,
    text_of,
    text_settings,
)
from vidtune.systems.parts.openai_clip import PATCH_TOWER, patch_sizes
from vidtune.systems.parts.vicuna import CURIOUS_HUMAN, CURIOUS_USER, LANGUAGE_MODEL_ENDS, LANGUAGE_MODEL_KEYS

NAME = "artemis"

# No space after the tag, as in the official texts. The sixth question is there twice.
QUESTIONS = (
    "How would you characterize the <box>in this video?",
    "What action is the <box>performing in this video?",
    "Throughout this video, what is the behavior of this object <box>?",
    "How is the <box>acting in this video?",
    "What is the motion of the object in this zone <box>in this video?",
    "What is the <box>doing in this video?",
    "As this video plays, what is this object <box>doing?",
    "In what way is the <box>behaving in this video?",
    "While this video is running, what is this object <box>doing?",
    "What are the characteristics of the <box>in this video?",
    "How does the <box>move in this video?",
    "During this video, what is this object <box>accomplishing?",
    "What is the activity of the object in this area <box>in this video?",
    "What is this object <box>doing throughout this video?",
    "What is the <box>doing in this video?",
    "How is the object in this part <box>behaving in this video?",
    "What is the behavior of this object <box>in this video?",
    "How does the object in this section <box>act in this video?",
    "What is the action of this object <box>in this video?",
    "How is the object in this segment <box>moving in this video?",
    "What is the movement of this object <box>in this video?",
    "What is the <box>engaged in in this video?",
    "How does the object in this zone <box>operate in this video?",
    "What is the operation of this object <box>in this video?",
)
_NOTES = tuple(
    f"{{question}} {begin} the region's video tracking list:{{tag}}."
    for begin in ("This is", "There is", "You are provided")
)
# The texts of training and of answering differ in the system line, and in spaces and full stop around the note.
PROMPTS = {
    "v1": with_roles("v1", CURIOUS_USER, placements=(Placement("track", _NOTES),), questions=QUESTIONS),
    "llava_v1": with_roles(
        "llava_v1",
        CURIOUS_HUMAN,
        placements=(Placement("track", ("{question} This is the region's video tracking list: {tag}",)),),
    ),
}

_PUBLISHED_TOWER = "openai/clip-vit-large-patch14"
_TOWER: JsonDict = {"type": "clip_pooled", "hidden_act": "quick_gelu"}
_STREAMS = {"video": "visual", "image": "visual", "box": "region", "track": "region"}
_TAP_STEP = 3
_LAYER = -2
_CLUSTERS, _TRACKED = 4, 8


def build_config(text_config: PreTrainedConfig, towers: Sizes, connectors: Sizes) -> VideoLMConfig:
    """Return the config. All streams share a tower; those of a target tap several of its hidden states.

    The deepest of these is the one that pictures and videos read; the others lie below it, three layers apart, or
    nearer in a tower of few layers.
    """
    spec = {**_TOWER, **towers.get("clip", {})}
    tower = tower_config({name: value for name, value in spec.items() if name != "absent"})
    assert isinstance(tower, PooledClipTowerConfig)
    sizes = {"input_size": tower.hidden_size, "output_size": text_config.hidden_size, "depth": 2}
    region = {
        "hidden_size": tower.hidden_size,
        "output_size": text_config.hidden_size,
        "grid": isqrt(tower.tokens_per_frame),
        "groups": gcd(64, tower.hidden_size),
        "clusters": _CLUSTERS,
        **connectors.get("region", {}),
    }
    sized = connector_config({"type": "region", **region})
    assert isinstance(sized, RegionConnectorConfig)
    if sized.hidden_size != tower.hidden_size:
        width = tower.hidden_size
        raise ValueError(
            f"connectors.region: hidden_size is {sized.hidden_size}, but towers.clip gives {width} features"
        )
    levels = sized.num_levels
    deepest = tower.num_states + tower.feature_layer
    step = min(_TAP_STEP, deepest // max(1, levels - 1))
    if not step:
        line = f"towers.clip: {deepest} layers up to its feature_layer are too few for {levels} levels"
        raise ValueError(f"{line}; set connectors.region.num_levels to {deepest + 1} or fewer, or add layers")
    taps = [deepest - step * (levels - 1 - level) for level in range(levels)]
    return VideoLMConfig(
        system=NAME,
        text_config=text_config,
        towers={"clip": spec},
        connectors={
            "visual": {"type": "mlp", **sizes, **connectors.get("visual", {})},
            "region": {"type": "region", **region},
        },
        streams={
            name: {"tower": "clip", "connector": connector, **({"taps": taps} if connector == "region" else {})}
            for name, connector in _STREAMS.items()
        },
    )


def preprocessing(config: VideoLMConfig) -> dict[str, Preprocessing]:
    """Return the preprocessing of the official code.

    Videos are squeezed into a square, pictures and frames of boxes are cut to it, and boxes stay fractions of the whole
    frame, as published; ``follow_crop`` of the streams of a target corrects that. Resized pixels are whole grey levels.
    """
    tower = config.tower("clip")
    assert isinstance(tower, PooledClipTowerConfig)
    size = tower.image_size
    tracked = _CLUSTERS if config.connectors["region"]["clusters"] is None else _TRACKED
    return {
        "video": VideoPreprocessing(
            size=size,
            num_frames=tower.pooled_frames,
            sampling="segment_middles",
            resize="stretch",
            order="resize_then_normalize",
            pixels="uint8",
        ),
        "image": ImagePreprocessing(size=size, antialias=True, pixels="uint8"),
        "box": RegionPreprocessing(size=size, num_boxes=1, antialias=True, pixels="uint8"),
        "track": RegionPreprocessing(size=size, num_boxes=tracked, antialias=True, pixels="uint8"),
    }


def _placeholders(config: VideoLMConfig, stream: str) -> int:
    """Number of placeholders of an item: one for each token of a track, one for everything else."""
    return config.num_tokens(stream, preprocessing(config)[stream].output_shape()) if stream == "track" else 1


_CLIP_PREFIX = "model.image_tower.vision_tower.vision_model."
_REGION_PREFIX = "model.spi_model."
_CONNECTOR_KEYS = (("model.mm_projector.", "connectors.visual."), (_REGION_PREFIX, "connectors.region."))
_OFFICIAL_KEYS = KeyMap(
    ((_CLIP_PREFIX, "towers.clip."), *_CONNECTOR_KEYS, *LANGUAGE_MODEL_KEYS),
    (r".*\.rotary_emb\.inv_freq$", r".*\.position_ids$"),
)
_PROJECTOR_KEYS = KeyMap(
    tuple((prefix + "mm_projector.", "connectors.visual.") for prefix in ("model.", "base_model.model.model.", ""))
)

_SETTINGS = LLAVA | KnownSettings(
    read=frozenset({"mm_image_tower"}),
    nested={
        "vidtune_towers": KnownSettings(read=frozenset({"clip"})),
        "vidtune_connectors": KnownSettings(read=frozenset({"region"})),
    },
    only={
        "mm_video_tower": (None,),
        "mm_use_bbox_token": (False, None),
        "mm_spi_model": (True, False, None),
        "k_means": (True, False, None),
        "use_mm_proj": (True, None),
    },
    ignored={
        "lengths and padding, which a recipe and our batches set": (
            "tokenizer_model_max_length",
            "tokenizer_padding_side",
        ),
    },
    why={"mm_use_bbox_token": "the model was trained with a token of its own for boxes"},
)
_WITH_REGIONS = _SETTINGS | KnownSettings(
    only={"mm_spi_model": (True,)}, why={"mm_spi_model": "the file holds weights of a region module"}
)
_WITHOUT_REGIONS = _SETTINGS | KnownSettings(
    only={"mm_spi_model": (False, None)}, why={"mm_spi_model": "the file holds no weights of a region module"}
)


def _is_ours(config: JsonDict, shapes: Shapes) -> bool:
    """Whether a config.json, or tensors, tell this system: a picture tower and no other, or regions."""
    named = bool(config.get("mm_image_tower")) and not config.get("mm_video_tower") and not config.get("X")
    return named or any("spi_model." in name for name in shapes)


def _is_whole(config: JsonDict, shapes: Shapes) -> bool:
    of_llava = config.get("model_type", "llava") == "llava"
    return of_llava and _is_ours(config, shapes) and any(key.startswith(LANGUAGE_MODEL_ENDS) for key in shapes)


def _has_regions(shapes: Shapes) -> bool:
    return any(name.startswith(_REGION_PREFIX) for name in shapes)


def _is_run(config: JsonDict, shapes: Shapes) -> bool:
    known = tuple(theirs for theirs, _ in _CONNECTOR_KEYS)
    return _has_regions(shapes) and all(name.startswith(known) for name in shapes)


def _is_projector(config: JsonDict, shapes: Shapes) -> bool:
    """Whether these are the layers of a projector, beside no config of a model with a tower of videos."""
    names = list(shapes)
    numbered = config.get("mm_projector_type") == "linear" or all(re.search(r"\.\d+\.\w+$", key) for key in names)
    others = config.get("mm_video_tower") or config.get("X")
    return bool(names) and numbered and not others and all(_PROJECTOR_KEYS.to_ours(key) for key in names)


def _connector_sizes(config: JsonDict, shapes: Shapes) -> dict[str, JsonDict]:
    """Sizes of the connectors. A published config.json tells the projector's depth, and whether boxes are chosen."""
    visual = {"depth": projector_depth(config.get("mm_projector_type", "mlp2x_gelu"))}
    # Without the key: as published. What was saved before its third stage says nothing of tracks.
    region: JsonDict = {} if config.get("k_means", True) or not _has_regions(shapes) else {"clusters": None}
    return {"visual": visual, "region": region | _region_sizes(shapes) | stored_sizes(config, "connectors", "region")}


def _take_run_settings(below: VideoLMConfig, config: JsonDict, shapes: Shapes) -> None:
    """Put the sizes of a run's region module into the config of the model below, whose other settings it must have."""
    tower = below.tower("clip")
    assert isinstance(tower, PooledClipTowerConfig)
    visual, region = dict(below.connectors["visual"]), dict(below.connectors["region"])
    require_same_text(config, below.text_config)
    require_width(config, visual["input_size"])
    layer, kind = config.get("mm_vision_select_layer"), config.get("mm_projector_type")
    number = tower.feature_layer
    if layer is not None and layer not in (number, number + tower.num_states, number - tower.num_states):
        raise ValueError(f"mm_vision_select_layer is {layer!r}, but {number} in the model on which it stands")
    if kind is not None and projector_depth(kind) != visual["depth"]:
        held = projector_kind(visual["depth"])
        raise ValueError(f"mm_projector_type is {kind!r}, but {held!r} in the model on which it stands")
    if "k_means" in config:
        region["clusters"] = (region["clusters"] or _CLUSTERS) if config["k_means"] else None
    region |= _region_sizes(shapes, region) | stored_sizes(config, "connectors", "region")
    sizes = {"visual": visual, "region": region}
    for spec in sizes.values():
        spec.pop("type")
    ours = build_config(below.text_config, {"clip": below.towers["clip"]}, sizes)
    below.connectors, below.streams = ours.connectors, ours.streams


def _region_sizes(shapes: Shapes, known: Mapping[str, Any] | None = None) -> JsonDict:
    """Sizes of the region connector that its tensors tell.

    Args:
        known: sizes that are known before. Fewer rounds or levels than these, or than published, are missing tensors.
    """
    own = {name.removeprefix(_REGION_PREFIX): shape for name, shape in shapes.items() if _REGION_PREFIX in name}
    if not own:
        return {}
    known = known or {}
    inner, flat = own["roi_align.flatten_linear.weight"]
    width = own["mlvl_fuse.input_conv.0.weight"][0]
    return {
        "hidden_size": width,
        **{
            size: max(known.get(size, getattr(RegionConnectorConfig, size)), _number(own, part))
            for size, part in (("num_levels", "roi_align.pconvs"), ("rounds", "mlvl_fuse.fuse_convs"))
        },
        "roi_size": isqrt(flat // width),
        "inner_size": inner,
        "position_size": own["roi_align.pos_embedd.0.weight"][0],
    }


def _number(shapes: Shapes, part: str) -> int:
    """Number of the layers of a list, by the largest index in the names of its tensors."""
    found = (re.match(rf"{re.escape(part)}\.(\d+)\.", name) for name in shapes)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _tower_name(config: JsonDict) -> str:
    return text_of(config, "mm_image_tower", _PUBLISHED_TOWER)


def _named_parts(config: JsonDict) -> NamedParts:
    return NamedParts({"clip": _tower_name(config)}, _connector_sizes(config, {}))


def _read_official(config: JsonDict, shapes: dict[str, tuple[int, ...]]) -> VideoLMConfig:
    text_config = read_text_config(config)
    held = patch_sizes(_CLIP_PREFIX, shapes)
    tower = {
        **(held or {"absent": _tower_name(config)}),
        "feature_layer": _LAYER if config.get("mm_vision_select_layer") is None else config["mm_vision_select_layer"],
        **stored_sizes(config, "towers", "clip"),
    }
    ours = build_config(text_config, {"clip": tower}, _connector_sizes(config, shapes))
    require_width(config, ours.connectors["visual"]["input_size"])
    return ours


def _write_official(config: VideoLMConfig, towers: Mapping[str, str], regions: bool = True) -> JsonDict:
    tower, visual, region = config.towers["clip"], config.connectors["visual"], config.connectors["region"]
    place = towers.get("clip") or tower.get("absent") or _PUBLISHED_TOWER
    return {
        **text_settings(config.text_config),
        "model_type": "llava",
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_image_tower": place,
        "mm_hidden_size": visual["input_size"],
        "mm_projector_type": projector_kind(visual["depth"]),
        "mm_vision_select_layer": tower.get("feature_layer", _LAYER),
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_use_bbox_token": False,
        "mm_spi_model": regions,
        "k_means": regions and region["clusters"] is not None,
        "use_mm_proj": True,
        "image_aspect_ratio": "pad",
        "tokenizer_padding_side": "right",
        "tokenizer_model_max_length": 3072,
        "vidtune_towers": {"clip": {key: value for key, value in tower.items() if key not in ("type", "absent")}},
        "vidtune_connectors": {"region": {key: value for key, value in region.items() if key != "type"}},
    }


def _write_without_regions(config: VideoLMConfig, towers: Mapping[str, str]) -> JsonDict:
    return _write_official(config, towers, regions=False)


_WHOLE: dict[str, Any] = {"keys": _OFFICIAL_KEYS, "read_config": _read_official}

SYSTEM = System(
    name=NAME,
    title="Artemis",
    paper="arXiv:2406.00258",
    repository="https://github.com/NeurIPS24Artemis/Artemis",
    dialect=Dialect(
        prompts=PROMPTS,
        training_prompt="v1",
        answering_prompt="llava_v1",
        max_media={"image": 16, "video": 1, "box": 1, "track": 1},
        target=("box", "track"),
    ),
    architecture=Architecture(build_config, preprocessing, _placeholders),
    publication=Publication(
        formats=(
            CheckpointFormat(
                name="official",
                settings=_WITH_REGIONS,
                matches=lambda config, shapes: _is_whole(config, shapes) and _has_regions(shapes),
                write_config=_write_official,
                **_WHOLE,
            ),
            CheckpointFormat(
                name="official_stage2",
                settings=_WITHOUT_REGIONS,
                matches=lambda config, shapes: _is_whole(config, shapes) and not _has_regions(shapes),
                write_config=_write_without_regions,
                warnings=lambda config: [
                    "this is the second stage of Artemis, which knows no targets: its region module starts from random "
                    "weights and has to be trained, or filled by a LoRA run of the third stage"
                ],
                without=("connectors.region",),
                drawn=(r"connectors\.region\.",),
                **_WHOLE,
            ),
            CheckpointFormat(
                name="official_lora",
                settings=_WITH_REGIONS,
                keys=_OFFICIAL_KEYS,
                matches=_is_run,
                write_config=_write_official,
                partial=("connectors.visual", "connectors.region"),
                adapter=True,
                on_whole_models=True,
                take_settings=_take_run_settings,
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
        towers={"clip": PATCH_TOWER},
        named_parts=_named_parts,
    ),
)
