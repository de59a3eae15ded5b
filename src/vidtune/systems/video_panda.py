"""Video-Panda: no pretrained encoder; a spatio-temporal alignment block before Vicuna-7B with the weights of EVE-7B.

Source: arXiv:2412.18609, github.com/jh-yi/Video-Panda (constants, key names and prompts of commit 995a737).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import PreTrainedConfig

from vidtune.checkpoints.files.settings import KnownSettings
from vidtune.checkpoints.publication import CheckpointFormat, JsonDict, KeyMap, Publication, Shapes
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.media.preprocessing.resize_keeping_aspect import AnyPixelImagePreprocessing, AnyPixelVideoPreprocessing
from vidtune.media.preprocessing.transforms import CLIP_MEAN, CLIP_STD
from vidtune.models.architecture import Architecture, Sizes
from vidtune.models.config import VideoLMConfig
from vidtune.models.letterbox import normalized_color
from vidtune.models.towers.stab import StabTowerConfig
from vidtune.processing.dialect import Dialect
from vidtune.processing.prompts.known import with_roles
from vidtune.systems.base import System
from vidtune.systems.parts.languagebind import LANGUAGEBIND_TOWER
from vidtune.systems.parts.llava_settings import (
    LLAVA,
    projector_depth,
    projector_kind,
    read_text_config,
    require_width,
    text_settings,
)
from vidtune.systems.parts.vicuna import CURIOUS_HUMAN, CURIOUS_USER, LANGUAGE_MODEL_KEYS

NAME = "video_panda"

# As published, the model is trained with one system line and evaluated with the other.
_TAG_AT_END = r"(?s:.*\S.*)(?P<media><(?:video|image)>)"
PROMPTS = {
    "v1": with_roles("v1", CURIOUS_USER, moved=_TAG_AT_END),
    "videopanda_v1": with_roles("videopanda_v1", CURIOUS_HUMAN, moved=_TAG_AT_END),
}

PADDING_COLOR = (122, 116, 104)
"""RGB levels of the border around a picture: int(255 * mean of CLIP)."""
_TOWER: JsonDict = {
    "type": "stab",
    "num_frames": 8,
    "padding_color": list(normalized_color(PADDING_COLOR, CLIP_MEAN, CLIP_STD)),
}
_CLIP_HEADS = {1408: 11}
TEACHER = "LanguageBind/LanguageBind_Video_merge"


def build_config(text_config: PreTrainedConfig, towers: Sizes, connectors: Sizes) -> VideoLMConfig:
    """Return the config. Images and videos share one tower and one connector; default sizes are the published ones."""
    tower = {**_TOWER, **towers.get("video", {})}
    mlp = {
        "type": "mlp",
        "input_size": tower.get("hidden_size", 1024),
        "output_size": text_config.hidden_size,
        "depth": 2,
    }
    return VideoLMConfig(
        system=NAME,
        text_config=text_config,
        towers={"video": tower},
        connectors={"visual": {**mlp, **connectors.get("visual", {})}},
        streams={name: {"tower": "video", "connector": "visual"} for name in ("image", "video")},
    )


def _tower(config: VideoLMConfig) -> StabTowerConfig:
    tower = config.tower("video")
    assert isinstance(tower, StabTowerConfig)
    return tower


def preprocessing(config: VideoLMConfig) -> dict[str, Preprocessing]:
    """Return the preprocessing. Nothing is mirrored unless a stage asks for it.

    The published code mirrors clips at random, also when it answers, and independently for teacher and student.
    """
    tower = _tower(config)
    return {
        "image": AnyPixelImagePreprocessing(size=tower.image_size, cell=tower.cell_pixels),
        "video": AnyPixelVideoPreprocessing(size=tower.image_size, cell=tower.cell_pixels, num_frames=tower.num_frames),
    }


def _placeholders(config: VideoLMConfig, stream: str) -> int:
    """Number of placeholders of an item: one per frame of a clip, one for a picture."""
    return _tower(config).num_frames if stream == "video" else 1


_STAB_PARTS = (
    ("patch_embedding.", "patch_embedding."),
    ("lmhra1.pos_embed.0.", "local_encoding.norm."),
    ("lmhra1.pos_embed.1.", "local_encoding.reduce."),
    ("lmhra1.pos_embed.2.", "local_encoding.over_time."),
    ("lmhra1.pos_embed.3.", "local_encoding.expand."),
    ("dpe.", "local_encoding.position."),
    ("temporal_cls_token", "clip_aggregator.query"),
    ("dec.attn.in_proj_", "clip_aggregator.in_proj_"),
    ("dec.attn.out_proj.", "clip_aggregator.out_proj."),
    ("dec.ln_1.", "clip_aggregator.norm_query."),
    ("dec.ln_2.", "clip_aggregator.norm_mlp."),
    ("dec.ln_3.", "clip_aggregator.norm_tokens."),
    ("dec.mlp.c_fc.", "clip_aggregator.mlp_in."),
    ("dec.mlp.c_proj.", "clip_aggregator.mlp_out."),
    *(
        pair
        for theirs, ours in (("local_attention.", "downsampling."), ("global_attention.", "frame_aggregator."))
        for pair in (
            (theirs + "q.0.", ours + "norm_query."),
            (theirs + "q.1.", ours + "q_proj."),
            (theirs + "kv.0.", ours + "norm_members."),
            (theirs + "kv.1.", ours + "kv_proj."),
            (theirs + "proj.", ours + "out_proj."),
        )
    ),
    ("class_embedding", "frame_query"),
    ("balance", "fusion.balance"),
    ("proj.0.", "fusion.norm."),
    ("proj.2.", "fusion.proj."),
    ("split_embedding", "row_end"),
)
_ALIGNMENT_PARTS = (("norm_layer.", "layer_proj."), ("input_layer.", "input_proj."), ("output_layer.", "output_proj."))


def _prefixed(theirs: str, ours: str, parts: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((theirs + part, ours + our_part) for part, our_part in parts)


_IGNORED = (r".*\.rotary_emb\.inv_freq$",)
# The official model holds its tower and projector under two names each. Both are read, and the first is written.
_OFFICIAL_KEYS = KeyMap(
    (
        *_prefixed("model.video_tower.", "towers.video.", _STAB_PARTS),
        ("model.video_projector.", "connectors.visual."),
        *_prefixed("model.video_tower_compressor.", "alignments.video.", _ALIGNMENT_PARTS),
        *_prefixed("model.vision_tower.", "towers.video.", _STAB_PARTS),
        ("model.mm_projector.", "connectors.visual."),
        *LANGUAGE_MODEL_KEYS,
    ),
    _IGNORED,
    (
        (r"model\.(video|image|vision)_teacher\.", "the teacher"),
        (r"model\.\w+_compressor\.teacher_layer\.", "the teacher"),
        (r"model\.vision_tower_compressor\.", "image distillation"),
        (r"model\.(video|vision)_tower\.lmhra2\.", "an unused layer (lmhra2)"),
    ),
)
_EVE_KEYS = KeyMap(
    (
        *_prefixed("model.vision_tower.", "towers.video.", _STAB_PARTS),
        ("model.mm_projector.", "connectors.visual."),
        *_prefixed("model.vision_tower_compressor.", "alignments.video.", _ALIGNMENT_PARTS),
        *LANGUAGE_MODEL_KEYS,
    ),
    _IGNORED,
    ((r".*clip", "EVE's teacher"),),
)


_SETTINGS = LLAVA | KnownSettings(
    read=frozenset({"vidtune_tower"}),
    only={"unified_pel": (True, None)},
    ignored={
        "files of the towers, which are in the weights": ("mm_video_tower", "mm_vision_tower", "video_hidden_size"),
        "distillation, which the weights tell": (
            *("*_teacher", "requires_video_distill", "requires_image_distill", "requires_cliploss"),
            *("vision_tower_clip", "mm_vision_tower_clip"),
        ),
    },
)


def _is_official(config: JsonDict, shapes: Shapes) -> bool:
    return any(re.match(r"model\.(video|vision)_tower\.temporal_cls_token$", key) for key in shapes)


def _is_eve(config: JsonDict, shapes: Shapes) -> bool:
    names = set(shapes)
    has = "model.vision_tower.split_embedding" in names and "model.vision_tower.class_embedding" in names
    return has and not _is_official(config, shapes)


def _sizes_from_shapes(prefix: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Tower sizes from tensor shapes, because the published config.json does not hold them."""
    width, _, patch, _ = shapes[prefix + "patch_embedding.weight"]
    return {"hidden_size": width, "patch_size": patch, "clip_heads": _CLIP_HEADS.get(width, 8)}


def _alignment(prefix: str, text: PreTrainedConfig, shapes: dict[str, tuple[int, ...]]) -> dict[str, dict[str, Any]]:
    """Sizes of the alignment head of a checkpoint; empty where it was removed."""
    if prefix + "input_layer.weight" not in shapes:
        return {}
    output, width = shapes[prefix + "input_layer.weight"]
    number = len({key.split(".")[3] for key in shapes if key.startswith(prefix + "norm_layer.")})
    layers = [text.num_hidden_layers - 4 * k for k in range(number)]
    return {"video": {"input_size": width, "output_size": output, "layers": layers}}


def _read(tower: str, alignment: str, config: JsonDict, shapes: dict[str, tuple[int, ...]]) -> VideoLMConfig:
    text_config = read_text_config(config)
    sizes = {**_sizes_from_shapes(tower, shapes), **config.get("vidtune_tower", {})}
    depth = projector_depth(config.get("mm_projector_type", "mlp2x_gelu"))
    ours = build_config(text_config, {"video": sizes}, {"visual": {"depth": depth}})
    require_width(config, ours.connectors["visual"]["input_size"])
    ours.alignments = _alignment(alignment, text_config, shapes)
    return ours


def _read_official(config: JsonDict, shapes: dict[str, tuple[int, ...]]) -> VideoLMConfig:
    name = "video" if "model.video_tower.patch_embedding.weight" in shapes else "vision"
    return _read(f"model.{name}_tower.", "model.video_tower_compressor.", config, shapes)


def _read_eve(config: JsonDict, shapes: dict[str, tuple[int, ...]]) -> VideoLMConfig:
    return _read("model.vision_tower.", "model.vision_tower_compressor.", config, shapes)


def _write_official(config: VideoLMConfig, towers: Mapping[str, str] | None = None) -> JsonDict:
    depth = config.connectors["visual"]["depth"]
    width = config.connectors["visual"]["input_size"]
    files = "videopanda/config/videopanda-{}-LB-patch14-anypixel-448"
    return {
        **text_settings(config.text_config),
        "model_type": "videopanda",
        "architectures": ["VideoPandaLlamaForCausalLM"],
        "mm_video_tower": files.format("video"),
        "mm_vision_tower": files.format("vision"),
        "mm_video_tower_teacher": TEACHER,
        "video_tower_teacher": TEACHER,
        "mm_vision_tower_teacher": "LanguageBind/LanguageBind_Image",
        "video_hidden_size": width,
        "mm_hidden_size": width,
        "mm_projector_type": projector_kind(depth),
        "requires_video_distill": bool(config.alignments),
        "requires_image_distill": False,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "image_aspect_ratio": "square",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "tune_mm_mlp_adapter": False,
        "use_mm_proj": True,
        "unified_pel": True,
        "vidtune_tower": {key: value for key, value in config.towers["video"].items() if key != "type"},
    }


SYSTEM = System(
    name=NAME,
    title="Video-Panda",
    paper="arXiv:2412.18609",
    repository="https://github.com/jh-yi/Video-Panda",
    dialect=Dialect(
        prompts=PROMPTS,
        training_prompt="v1",
        answering_prompt="videopanda_v1",
        max_media={"image": 1, "video": 1},
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
                name="eve",
                settings=_SETTINGS,
                keys=_EVE_KEYS,
                matches=_is_eve,
                read_config=_read_eve,
                warnings=lambda config: [
                    "this is EVE, an image model: what mixes frames starts from random weights and has to be trained"
                ],
                drawn=(r"towers\.video\.(local_encoding|clip_aggregator|fusion)\.",),
            ),
        ),
        teachers=dict.fromkeys(("image", "video"), LANGUAGEBIND_TOWER),
    ),
)
