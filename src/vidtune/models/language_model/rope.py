"""Rotary positions of a language model that are changed for a run, as by YaRN (Peng et al., arXiv:2309.00071).

The model itself is not touched: the changed one is a view that shares all weights, so that several engines may run one
model by different rules.
"""

from collections.abc import Mapping
from copy import copy, deepcopy
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from vidtune.errors import UserError
from vidtune.spelling import suggestion

LONGEST = "max_position_embeddings"
DEFAULT = "default"
_ROTARY = "rotary_emb"
ModelT = TypeVar("ModelT", bound=PreTrainedModel)


def with_rope(model: ModelT, rope: Mapping[str, Any]) -> ModelT:
    """A model that shares all weights of a video language model and turns positions by other rules.

    Args:
        model: has ``language_model`` and ``config.text_config``.
        rope: keys of ``rope_parameters`` of transformers, which are laid over those of the config, such as
            ``{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}``; and
            ``max_position_embeddings``, the longest prompt. Without that one, the length to which the factor stretches
            the original one, or that of the config. Empty: the model itself.

    Raises:
        UserError: unknown or missing keys, or a language model without one rule for its positions.
    """
    if not rope:
        return model
    language_model = model.language_model
    decoder = language_model.get_decoder()
    rotary = getattr(decoder, _ROTARY, None)
    name = next((name for name, part in language_model.named_children() if part is decoder), None)
    if rotary is None or name is None or not hasattr(rotary, "inv_freq"):
        raise UserError(f"rope: language model {language_model.config.model_type!r} has no rotary positions to change")
    config = _changed(language_model.config, rope)
    view, whole, inner = sharing_view(model), sharing_view(language_model), sharing_view(decoder)
    setattr(inner, _ROTARY, type(rotary)(config=config).to(rotary.inv_freq.device).train(rotary.training))
    setattr(whole, name, inner)
    whole.config = inner.config = config
    view.language_model = whole
    view.config = copy(model.config)
    view.config.text_config = config
    return view


def _changed(config: PreTrainedConfig, rope: Mapping[str, Any]) -> PreTrainedConfig:
    """A copy of the config of a language model with other rotary positions. Raises UserError for wrong keys."""
    changes = dict(rope)
    longest = changes.pop(LONGEST, None)
    old = dict(getattr(config, "rope_parameters", None) or {})
    if any(isinstance(value, dict) for value in old.values()):
        raise UserError(f"rope: language model {config.model_type!r} has several kinds of rotary positions")
    new = {**old, **changes}
    kind = new.get("rope_type", DEFAULT)
    known = (DEFAULT, *ROPE_INIT_FUNCTIONS)
    if kind not in known:
        raise UserError(f"rope: rope_type is {kind!r}; {suggestion(str(kind), known)}")
    if longest is not None and (isinstance(longest, bool) or not isinstance(longest, int) or longest < 1):
        raise UserError(f"rope: {LONGEST} is {longest!r}, expected a whole number of tokens")
    found = deepcopy(config)
    found.rope_parameters = new
    try:
        if kind == "yarn":
            setattr(found, LONGEST, int(new["factor"] * new["original_max_position_embeddings"]))
        found.validate_rope()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"rope: {rope!r} is not what rope_type {kind!r} needs: {error}") from None
    if longest is not None:
        setattr(found, LONGEST, longest)
    return found


def sharing_view(module: ModelT) -> ModelT:
    """A module with the same parts, of which one can be replaced without touching the other module."""
    found = copy(module)
    parts: dict[str, nn.Module | None] = dict(module._modules)
    found.__dict__["_modules"] = parts
    return found
