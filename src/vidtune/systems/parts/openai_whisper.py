"""Whisper as a speech tower: the encoder in a folder of transformers (openai/whisper-large-v2).

Source: arXiv:2212.04356, github.com/openai/whisper; names of transformers.
"""

from collections.abc import Mapping

from transformers import WhisperConfig

from vidtune.checkpoints.files.settings import KnownSettings
from vidtune.checkpoints.parts.model_settings import settings_of
from vidtune.checkpoints.publication import JsonDict, KeyMap, TowerFile

ENCODER_KEYS = KeyMap(
    (("encoder.", "encoder."), ("model.encoder.", "encoder.")),
    left_out=((r"(model\.)?decoder\.|proj_out\.", "the decoder"),),
)
"""Key map: names in a folder (whole model, model without head, or encoder) -> names below a ``whisper`` tower."""


def encoder_sizes(config: JsonDict, shapes: Mapping[str, tuple[int, ...]] | None = None) -> JsonDict:
    """Return the sizes of a ``whisper`` tower from the config.json of transformers.

    Raises:
        ValueError: a file without a config, or the config of another model.
    """
    if shapes:
        raise ValueError("a file does not tell the heads of Whisper; give the folder with its config.json")
    if config.get("model_type") != "whisper":
        raise ValueError(f"model_type {config.get('model_type')!r} is not Whisper")
    whole = WhisperConfig(**config)
    return {
        "hidden_size": whole.d_model,
        "intermediate_size": whole.encoder_ffn_dim,
        "num_hidden_layers": whole.encoder_layers,
        "num_attention_heads": whole.encoder_attention_heads,
        "num_mel_bins": whole.num_mel_bins,
        "max_source_positions": whole.max_source_positions,
        "hidden_act": whole.activation_function,
    }


SETTINGS = settings_of(WhisperConfig) | KnownSettings(
    only={"is_encoder_decoder": (True, False, None)},
    ignored={"the decoder": ("forced_decoder_ids", "decoder_*", "max_target_positions")},
)
"""Settings of a folder of Whisper."""
ENCODER_TOWER = TowerFile(ENCODER_KEYS, encoder_sizes, SETTINGS)
"""How a ``whisper`` tower is published: a folder of transformers."""
