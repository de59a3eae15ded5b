"""The language model in a folder: alone, or inside a published model of images and text."""

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from vidtune.checkpoints.parts.model_settings import require_one_rotary
from vidtune.checkpoints.publication import CONFIG_ERRORS, KeyMap, in_plain_words
from vidtune.checkpoints.source import Source
from vidtune.errors import UserError
from vidtune.models.language_model.families import config_class, family_of
from vidtune.registry import LANGUAGE_MODELS
from vidtune.spelling import suggestion

_IGNORED = (r".*\.rotary_emb\.inv_freq$",)
_INSIDE = (("language_model.", ""), ("model.language_model.", "model."), ("lm_head.", "lm_head."))
"""Beginnings of the names of a language model inside another model, and of the same one alone."""
_ROTARY_NUMBERS = {
    *("rope_theta", "factor", "attention_factor", "beta_fast", "beta_slow", "low_freq_factor", "high_freq_factor"),
    *("original_max_position_embeddings", "partial_rotary_factor", "short_factor", "long_factor"),
}
"""Numbers of rotary positions, each positive; of ``short_factor`` and ``long_factor`` there are several."""
_LARGEST = 1e18
"""More than any of these numbers."""
_OTHERS = ((r"(?!(model\.)?language_model\.|lm_head\.)", "the model around the language model"),)


def read_text_config(source: Source) -> PreTrainedConfig:
    """Return the config of a language model, alone or inside another model. Raises UserError where there is none."""
    try:
        whole = _whole_config(source)
        text = whole.get_text_config(decoder=True)
    except (OSError, UserError, *CONFIG_ERRORS) as error:
        raise UserError(f"{source.place}: holds no language model ({in_plain_words(error)})") from None
    try:
        require_usable(text)
        require_one_rotary(source.config.get("text_config") or source.config)
    except ValueError as error:
        raise UserError(f"{source.place}: config.json: {error}") from None
    if not hasattr(text, "vocab_size"):
        raise UserError(f"{source.place}: holds no language model (a {text.model_type} has no vocabulary)")
    if text is not whole and source.files is not None:
        text.tie_word_embeddings = source.files.config.get("tie_word_embeddings", text.tie_word_embeddings)
    return text


def require_causal(config: PreTrainedConfig, where: str) -> None:
    """Raise UserError where transformers has no causal language model of this type, and no package registered one."""
    kind = config.model_type
    if kind not in LANGUAGE_MODELS and kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(f"{where}: a {kind} is no causal language model; take a model_type such as llama or qwen2")


def require_usable(config: PreTrainedConfig) -> None:
    """Raise ValueError where a language model has an unknown activation, a padding token outside its vocabulary, or
    rotary positions of an unknown kind or by odd numbers.
    """
    activation = getattr(config, "hidden_act", None)
    if isinstance(activation, str) and activation not in ACT2FN:
        raise ValueError(f"hidden_act is {activation!r}; {suggestion(activation, ACT2FN)}")
    pad, words = getattr(config, "pad_token_id", None), getattr(config, "vocab_size", None)
    if isinstance(pad, int) and isinstance(words, int) and not -words <= pad < words:
        raise ValueError(f"pad_token_id is {pad}; expected a token of the vocabulary, of which there are {words}")
    _require_rotary(config)


def _require_rotary(config: PreTrainedConfig) -> None:
    given = getattr(config, "rope_parameters", None) or {}
    for one in [given, *(value for value in given.values() if isinstance(value, dict))]:
        kind = one.get("rope_type", "default")
        if not isinstance(kind, str) or (kind != "default" and kind not in ROPE_INIT_FUNCTIONS):
            known = ", ".join(["default", *ROPE_INIT_FUNCTIONS])
            raise ValueError(f"rope_scaling: rope_type {kind!r} of the rotary positions is not known ({known})")
        for key in sorted(_ROTARY_NUMBERS & one.keys()):
            numbers = one[key] if isinstance(one[key], list) and key.endswith("_factor") else [one[key]]
            may_lack = (None,) if key != "rope_theta" else ()
            if not all(value in may_lack or _is_positive(value) for value in numbers):
                raise ValueError(f"rope_scaling: {key} is {one[key]!r}; expected a positive number")


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _LARGEST


def language_model_keys(source: Source) -> KeyMap:
    """Return the key map from the names in the files of a language model to the names in our model."""
    keys = family_of(read_text_config(source)).keys
    alone = tuple((theirs, f"language_model.{ours}") for theirs, ours in keys)
    if not is_inside(source):
        return KeyMap(alone, _IGNORED)
    within = []
    for outer, inner in _INSIDE:
        for theirs, ours in alone:
            if theirs.startswith(inner):
                within.append((outer + theirs[len(inner) :], ours))
            elif inner.startswith(theirs):
                within.append((outer, ours + inner[len(theirs) :]))
    return KeyMap(tuple(within), _IGNORED, _OTHERS)


def is_inside(source: Source) -> bool:
    """Whether a language model is a part of the model whose files these are."""
    whole = _whole_config(source)
    return whole.get_text_config(decoder=True) is not whole


def _whole_config(source: Source) -> PreTrainedConfig:
    config = source.files.require_config() if source.files else {}
    return config_class(str(config.get("model_type", ""))).from_dict(config)
