"""VideoChat-Flash: long videos, every clip of four frames merged to 64 tokens, before Qwen2.

The tower is UMT or InternVideo2, which the type of the tower ``vision`` says. Pictures are cut into tiles.

Source: arXiv:2501.00574, github.com/OpenGVLab/VideoChat-Flash (constants, key names and prompts of commit 2f8e2f5).
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from transformers import PreTrainedConfig, Qwen2Config

from vidtune.checkpoints.files.settings import KnownSettings
from vidtune.checkpoints.parts.model_settings import settings_of
from vidtune.checkpoints.publication import (
    CheckpointFormat,
    JsonDict,
    KeyMap,
    NamedParts,
    Publication,
    Shapes,
    State,
    TowerFile,
)
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.media.preprocessing.resize_to_square import VideoPreprocessing
from vidtune.media.preprocessing.tiles import TilesPreprocessing
from vidtune.models.architecture import Architecture, Sizes
from vidtune.models.config import VideoLMConfig
from vidtune.models.towers.base import tower_config
from vidtune.models.towers.clipwise import ClipwiseTowerConfig
from vidtune.processing.dialect import Dialect
from vidtune.processing.layout import Tokens
from vidtune.processing.prompts.format import Placement
from vidtune.processing.prompts.known import captions, chatml
from vidtune.systems.base import System
from vidtune.systems.parts.llava_settings import (
    AROUND,
    read_text_config,
    require_width,
    stored_sizes,
    text_of,
    text_settings,
    width_of,
)
from vidtune.systems.parts.opengvlab_encoders import INTERNVIDEO2_TOWER, UMT_PARTS, UMT_TOWER
from vidtune.systems.parts.vicuna import LANGUAGE_MODEL_ENDS, LANGUAGE_MODEL_KEYS

NAME = "videochat_flash"

_SYSTEM = "You are a helpful assistant."
_TAG = "<(?:image|video)>"
_REST = f"(?:(?!{_TAG}).)"
_ONE_TAG_LATER = f"(?s:{_REST}+(?P<media>{_TAG}){_REST}*)"
_TIME = "\nThe video lasts for {duration:.2f} seconds, and {frames} frames are uniformly sampled from it. "

_CHATML = chatml("qwen_2", _SYSTEM)
# Published training supervises the tokens of the template and every newline, also in the turns of the user.
_TRAINING = replace(
    _CHATML,
    moved=_ONE_TAG_LATER,
    assistant=replace(_CHATML.assistant, supervised=("before", "end", "after")),
    also_supervised=("<|im_start|>", "<|im_end|>", "\n"),
    left_out=("QA_GT_caption_based_noisy",),
)
# The published chat puts no newline between the sentence about the video and the question, as the training texts do.
_CHAT = replace(_CHATML, name="qwen_2_chat", placements=(Placement("video", ("{tag}{question}",)),))
PROMPTS = {
    "qwen_2": _TRAINING,
    "qwen_2_chat": _CHAT,
    "qwen_2_bare": replace(_CHATML, name="qwen_2_bare", question="{media}{question}", layouts=False),
    "plain": replace(captions("plain", ("image", "video")), layouts=False),
}
"""Formats of training, of answering, of answering without any text around media, and of captions."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PUBLISHED = {
    "umt": "UMT-L_f4_vision.pt",
    "internvideo2": "InternVideo2-1B_f4_vision.pt",
}
"""Type of a tower -> the file of its weights in OpenGVLab/Video_Encoders_for_Training_VideoChat-Flash."""
_SIZE, _LARGE_SIZE = 224, 448


def build_config(text_config: PreTrainedConfig, towers: Sizes, connectors: Sizes) -> VideoLMConfig:
    """Return the config. Pictures and videos share tower and connector; a group is a picture, or a clip of a video."""
    spec = {"type": "umt", **towers.get("vision", {})}
    tower = tower_config({name: value for name, value in spec.items() if name != "absent"})
    if not isinstance(tower, ClipwiseTowerConfig):
        raise ValueError(f"towers.vision: type is {spec['type']!r}; expected {' or '.join(PUBLISHED)}")
    group = {"image": tower.tokens_per_frame, "video": tower.clip_frames * tower.tokens_per_frame}
    merging = {
        "type": "token_merging",
        "input_size": tower.hidden_size,
        "output_size": text_config.hidden_size,
        "heads": tower.num_attention_heads,
        **connectors.get("visual", {}),
        "group_tokens": group["video"],
    }
    shared = {"tower": "vision", "connector": "visual"}
    settings = {"image": {"connector_settings": {"group_tokens": group["image"], "tiled": True}}, "video": {}}
    return VideoLMConfig(
        system=NAME,
        text_config=text_config,
        towers={"vision": spec},
        connectors={"visual": merging},
        streams={stream: {**shared, **changed} for stream, changed in settings.items()},
    )


def _tower(config: VideoLMConfig) -> ClipwiseTowerConfig:
    tower = config.tower("vision")
    assert isinstance(tower, ClipwiseTowerConfig)
    return tower


def preprocessing(config: VideoLMConfig) -> dict[str, Preprocessing]:
    """Return the preprocessing of the published chat: a frame a second, 64 to 512 of them, a multiple of 8.

    Training takes multiples of 4 in every stage (``media`` of a stage).
    """
    tower = _tower(config)
    pixels: dict[str, Any] = {
        "size": tower.image_size,
        "resize": "stretch_bicubic",
        "pixels": "uint8",
        "order": "resize_then_normalize",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    }
    frames: dict[str, Any] = {"num_frames": 512, "min_frames": 64, "multiple_of": 8, "sampling": "per_second_middles"}
    frames["folder_fps"] = 1.0
    return {
        "image": TilesPreprocessing(**pixels),
        "video": VideoPreprocessing(**pixels, **frames),
    }


_TOWER_PREFIX = "model.vision_tower.vision_tower."
_ENCODER = "encoder."
_PROJECTOR = "mm_projector."


def _without_level(state: State) -> State:
    """Put the tensors of InternVideo2, which has no level ``encoder``, under their own names."""
    above = _TOWER_PREFIX + _ENCODER
    if above + "cls_token" not in state:
        return state
    return {name.replace(above, _TOWER_PREFIX): tensor for name, tensor in state.items()}


_OFFICIAL_KEYS = KeyMap(
    (
        (_TOWER_PREFIX + _ENCODER, "towers.vision."),
        (_TOWER_PREFIX, "towers.vision."),
        ("model." + _PROJECTOR, "connectors.visual."),
        *LANGUAGE_MODEL_KEYS,
    ),
    (r".*\.rotary_emb\.inv_freq$",),
    restore=_without_level,
)
_PROJECTOR_KEYS = KeyMap(
    tuple((prefix + _PROJECTOR, "connectors.visual.") for prefix in ("model.", "base_model.model.model.", ""))
)

_QWEN2 = settings_of(Qwen2Config) | KnownSettings(
    only={"use_sliding_window": (False, None)}, why={"use_sliding_window": "it was trained with full attention"}
)
_COMPRESSION = ("llm_compress_type", "llm_compress_layer_list", "llm_image_token_ratio_list")
_SETTINGS = (
    _QWEN2
    | AROUND
    | KnownSettings(
        read=frozenset({"mm_vision_tower", "image_grid_pinpoints", *_COMPRESSION}),
        nested={
            "vidtune_towers": KnownSettings(read=frozenset({"vision"})),
            "vidtune_connectors": KnownSettings(read=frozenset({"visual"})),
        },
        only={
            "mm_projector_type": ("tome16_mlp_hd64", None),
            "mm_vision_select_layer": (-2, None),
            "mm_local_num_frames": (4, None),
            "mm_patch_merge_type": ("spatial_nopad", "flat", None),
            "mm_newline_position": ("nothing", None),
            "vision_encode_type": ("video_image", None),
            "image_aspect_ratio": ("anyres_nopad", "square", None),
            "frame_aspect_ratio": ("square", None),
            "use_pos_skipping": (False, None),
            "mm_llm_compress": (True, False, None),
        },
        ignored={
            "how it was trained": ("mm_pos_num_frames", "mm_close_init", "pos_skipping_range"),
            "settings of other readers of frames and of other connectors": (
                *("frame_grid_pinpoints", "max_num_pixels", "min_slow_num_frames", "mm_spatial_pool_*"),
                *("mm_num_compress_*", "image_crop_resolution", "image_split_resolution", "mm_resampler_*"),
            ),
        },
        why={"mm_newline_position": "the model was trained with a learned token between frames"},
    )
)
_GUIDED_FROM = {"attention": 0, "uniform0_attention": 1, "uniform1_attention": 2}
"""Published name of a way to drop tokens -> the first of its steps that is guided by attention."""
_TRAINED, _RELEASED = ("llava_qwen", "llava_qwen_flash"), ("videochat_flash_qwen",)


def _is_whole(kinds: tuple[str, ...], config: JsonDict, shapes: Shapes) -> bool:
    held = f"model.{_PROJECTOR}mlp.0.weight" in shapes and any(key.startswith(LANGUAGE_MODEL_ENDS) for key in shapes)
    return config.get("model_type") in kinds and held


def _is_projector(config: JsonDict, shapes: Shapes) -> bool:
    return bool(shapes) and all(re.search(r"(^|\.)mm_projector\.mlp\.[02]\.(weight|bias)$", name) for name in shapes)


def _vision_sizes(settings: JsonDict, shapes: Mapping[str, tuple[int, ...]]) -> JsonDict:
    """Type and sizes of the tower in an encoder file. Raises ValueError for a file of another model."""
    kind = "umt" if any(name.startswith(_ENCODER) for name in shapes) else "internvideo2"
    file = UMT_TOWER if kind == "umt" else INTERNVIDEO2_TOWER
    return {"type": kind, **file.read_sizes(settings, shapes)}


_OTHER_PARTS = rf"(?!{UMT_PARTS}|blocks\.|patch_embed\.|cls_token$|(img_)?pos_embed$)"
VISION_TOWER = TowerFile(
    replace(
        UMT_TOWER.keys,
        prefixes=(*UMT_TOWER.keys.prefixes, *INTERNVIDEO2_TOWER.keys.prefixes),
        left_out=(UMT_TOWER.keys.left_out[0], (_OTHER_PARTS, "other parts of the pre-trained model")),
    ),
    _vision_sizes,
)
"""How the tower is published alone: ``UMT-L_f4_vision.pt`` or ``InternVideo2-1B_f4_vision.pt``."""


def _named_tower(config: JsonDict) -> JsonDict:
    """Type and size of the pictures of the tower that a config.json names."""
    name = text_of(config, "mm_vision_tower", "umt-large")
    for part, sizes in (
        ("internvideo2", {"type": "internvideo2"}),
        ("umt-hd", {"type": "umt", "image_size": _LARGE_SIZE}),
        ("umt", {"type": "umt"}),
    ):
        if part in name.lower():
            return dict(sizes)
    raise ValueError(f"mm_vision_tower is {name!r}; expected umt-large, umt-hd-large or internvideo2")


def _named_parts(config: JsonDict) -> NamedParts:
    tower = _named_tower(config)
    width = width_of(config)
    tower = {**tower, **({"hidden_size": width} if width else {}), **stored_sizes(config, "towers", "vision")}
    return NamedParts(
        {"vision": {**tower, "absent": PUBLISHED[tower["type"]]}},
        {"visual": stored_sizes(config, "connectors", "visual")},
    )


def _layer_program(config: JsonDict) -> list[JsonDict]:
    """The steps in which a published config.json drops media tokens. Raises ValueError where it does not tell them."""
    if not config.get("mm_llm_compress"):
        return []
    kind, layers, shares = (config.get(key) for key in _COMPRESSION)
    known = isinstance(kind, str) and (kind == "uniform" or kind in _GUIDED_FROM)
    if (
        not (known and isinstance(layers, list) and isinstance(shares, list))
        or len(shares) != len(layers) + 1
        or shares[0] != 1
    ):
        told = ", ".join(f"{key} {config.get(key)!r}" for key in _COMPRESSION)
        raise ValueError(f"mm_llm_compress is true, but its steps cannot be read from {told}")
    guided = _GUIDED_FROM.get(str(kind), len(layers))
    step: JsonDict = {"drop": ["image", "video"], "compact": True}
    return [
        {"after": layer, "keep": share, **step, **({"rule": "attention"} if number >= guided else {})}
        for number, (layer, share) in enumerate(zip(layers, shares[1:], strict=True))
    ]


def _compression(program: list[JsonDict]) -> JsonDict:
    """The settings of a layer program. Raises ValueError for one that published code cannot run."""
    if not program:
        return {"mm_llm_compress": False}
    plain = [{key: value for key, value in step.items() if (key, value) != ("rule", "uniform")} for step in program]
    wanted = [{**step, "drop": ["image", "video"]} if "drop" in step else step for step in plain]
    for kind in ("uniform", *_GUIDED_FROM):
        shares = [1, *(step.get("keep") for step in program)]
        told = (kind, [step["after"] for step in program], shares)
        settings = {"mm_llm_compress": True, **dict(zip(_COMPRESSION, told, strict=True))}
        if _layer_program(settings) == wanted:
            return settings
    raise ValueError("its layer program is none that llm_compress_type can say")


def _read_official(config: JsonDict, shapes: dict[str, tuple[int, ...]]) -> VideoLMConfig:
    own = {name.removeprefix(_TOWER_PREFIX): shape for name, shape in shapes.items() if name.startswith(_TOWER_PREFIX)}
    if config.get("mm_patch_merge_type") == "flat" or config.get("image_aspect_ratio") == "square":
        raise ValueError(
            "image_aspect_ratio is not anyres_nopad; models whose pictures are not cut into tiles are not read"
        )
    named = _named_tower(config)
    tower = {**named, **(_vision_sizes({}, own) if own else {"absent": PUBLISHED[named["type"]]})}
    if tower["type"] != named["type"]:
        raise ValueError(
            f"mm_vision_tower is {config.get('mm_vision_tower')!r}, but the weights are of {tower['type']}"
        )
    ours = build_config(
        read_text_config(config, Qwen2Config, _QWEN2),
        {"vision": {**tower, **stored_sizes(config, "towers", "vision")}},
        {"visual": stored_sizes(config, "connectors", "visual")},
    )
    ours.layer_program = _layer_program(config)
    _ = ours.program  # raises ValueError where it does not fit the language model
    require_width(config, ours.connectors["visual"]["input_size"])
    grids, known = config.get("image_grid_pinpoints"), _grids(_tower(ours).image_size)
    if grids not in (None, [], known):
        raise ValueError(f"image_grid_pinpoints is {grids!r}; expected 1 to 6 tiles of {known[0][0]} pixels each way")
    return ours


def _write_config(config: VideoLMConfig, form: JsonDict) -> JsonDict:
    if (kind := config.text_config.model_type) != Qwen2Config.model_type:
        raise ValueError(f"it holds a Qwen2, not a language model of type {kind}")
    if (frames := _tower(config).clip_frames) != 4:
        raise ValueError(f"it holds a tower over clips of 4 frames, not of {frames}")
    tower = config.towers["vision"]
    size = _tower(config).image_size
    name = "internvideo2" if tower["type"] != "umt" else "umt-large" if size == _SIZE else "umt-hd-large"
    return {
        **text_settings(config.text_config),
        **form,
        "mm_vision_tower": name,
        "mm_hidden_size": config.connectors["visual"]["input_size"],
        "mm_projector_type": "tome16_mlp_hd64",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_patch_merge_type": "spatial_nopad",
        "mm_newline_position": "nothing",
        "mm_local_num_frames": 4,
        "vision_encode_type": "video_image",
        "image_aspect_ratio": "anyres_nopad",
        "image_grid_pinpoints": _grids(size),
        "frame_aspect_ratio": "square",
        "frame_grid_pinpoints": None,
        "max_num_pixels": 14745600000,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        **_compression(config.layer_program),
        "tokenizer_padding_side": "right",
        "tokenizer_model_max_length": 32768,
        "vidtune_towers": {"vision": {key: value for key, value in tower.items() if key not in ("type", "absent")}},
        "vidtune_connectors": {"visual": {k: v for k, v in config.connectors["visual"].items() if k != "type"}},
    }


def _grids(size: int) -> list[list[int]]:
    """Width and height in pixels of every grid of tiles."""
    return [[columns * size, rows * size] for columns in range(1, 7) for rows in range(1, 7)]


def _write_trained(config: VideoLMConfig, towers: Mapping[str, str]) -> JsonDict:
    return _write_config(config, {"model_type": _TRAINED[0], "architectures": ["LlavaQwenForCausalLM"]})


def _write_released(config: VideoLMConfig, towers: Mapping[str, str]) -> JsonDict:
    code, name = "modeling_videochat_flash", "VideoChatFlashQwen"
    classes = {"AutoConfig": f"{code}.{name}Config", "AutoModel": f"{code}.{name}ForCausalLM"}
    form = {"model_type": _RELEASED[0], "architectures": [f"{name}ForCausalLM"], "auto_map": classes}
    return _write_config(config, form)


_WHOLE: dict[str, Any] = {"keys": _OFFICIAL_KEYS, "settings": _SETTINGS, "read_config": _read_official}

SYSTEM = System(
    name=NAME,
    title="VideoChat-Flash",
    paper="arXiv:2501.00574",
    repository="https://github.com/OpenGVLab/VideoChat-Flash",
    dialect=Dialect(
        prompts=PROMPTS,
        training_prompt="qwen_2",
        answering_prompt="qwen_2_chat",
        layouts={"video": (Tokens(), _TIME)},
    ),
    architecture=Architecture(build_config, preprocessing),
    publication=Publication(
        formats=(
            CheckpointFormat(
                name="official",
                matches=lambda config, shapes: _is_whole(_TRAINED, config, shapes),
                write_config=_write_trained,
                **_WHOLE,
            ),
            CheckpointFormat(
                name="hub",
                matches=lambda config, shapes: _is_whole(_RELEASED, config, shapes),
                write_config=_write_released,
                **_WHOLE,
            ),
            CheckpointFormat(
                name="projector",
                settings=_SETTINGS,
                keys=_PROJECTOR_KEYS,
                matches=_is_projector,
                partial=("connectors.visual",),
                file_name="mm_projector.bin",
            ),
        ),
        towers={"vision": VISION_TOWER},
        named_parts=_named_parts,
    ),
)
