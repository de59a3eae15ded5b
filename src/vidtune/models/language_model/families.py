"""Families of language models: how each is built, and what is known about it.

The record of a known family says that packs and shared prefixes are exact for it. Any other family is proven when it is
built or loaded: a few tokens, packed, must give what they give one sample at a time. A family that fails is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from vidtune.errors import UserError
from vidtune.models.language_model.attention import PACKED_ATTENTION
from vidtune.models.language_model.head import Adjustment
from vidtune.registry import LANGUAGE_MODELS

FIRST, TOKENS = 5, 11
"""Number of tokens of the first sample, and of both samples, of a proof."""
_PROVEN: dict[str, "Family | str"] = {}
"""Config of a language model -> its family with what was proven, or why it is refused."""


def from_config(config: PreTrainedConfig) -> PreTrainedModel:
    """A language model of transformers with random weights and packed attention."""
    try:
        return AutoModelForCausalLM.from_config(config, attn_implementation=PACKED_ATTENTION)
    except KeyError as error:
        if error.args != (PACKED_ATTENTION,):
            raise
        raise refusal(config, "its attention cannot be replaced") from None


@dataclass(frozen=True, kw_only=True)
class Family:
    """What is known about the language models of one ``model_type``.

    Args:
        build: config -> a new language model that attends by :data:`PACKED_ATTENTION`. It has ``get_decoder``,
            ``get_input_embeddings`` and ``get_output_embeddings``, as language models of transformers do.
        config: class of the config, for a family that transformers does not have.
        keys: beginnings of the names of published weights, each with what stands there in the built model.
        layers: name of the list of decoder layers in the built model; empty: found by its length.
        logits: config -> function that the model applies to the output of its head (None: none); None: not known, so
            the model's own forward pass makes the logits.
        exact: packs and shared prefixes are known to be exact; False: to be proven.
    """

    build: Callable[[PreTrainedConfig], PreTrainedModel] = from_config
    config: type[PreTrainedConfig] | None = None
    keys: tuple[tuple[str, str], ...] = (("", ""),)
    layers: str = ""
    logits: Callable[[PreTrainedConfig], Adjustment | None] | None = None
    exact: bool = False

    def decoder_layers(self, language_model: PreTrainedModel) -> nn.ModuleList:
        """The decoder layers of a language model of this family.

        Raises:
            UserError: no list of modules has as many members as the config has layers.
        """
        if self.layers:
            return language_model.get_submodule(self.layers)
        count = language_model.config.num_hidden_layers
        for module in language_model.get_decoder().modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return module
        raise UserError(f"language model {language_model.config.model_type!r}: its {count} layers were not found")


def _unchanged(config: PreTrainedConfig) -> None:
    """The logits are the output of the head."""


def _adjusted(key: str, make: Callable[[float], Adjustment], config: PreTrainedConfig) -> Adjustment | None:
    value = getattr(config, key, None)
    return None if value is None else make(value)


PLAIN = Family(logits=_unchanged, exact=True)
COHERE = replace(PLAIN, logits=partial(_adjusted, "logit_scale", lambda scale: lambda logits: logits * scale))
GEMMA2 = replace(
    PLAIN,
    logits=partial(_adjusted, "final_logit_softcapping", lambda cap: lambda logits: torch.tanh(logits / cap) * cap),
)
GRANITE = replace(PLAIN, logits=partial(_adjusted, "logits_scaling", lambda scale: lambda logits: logits / scale))


def family_of(config: PreTrainedConfig) -> Family:
    """The record of a language model's family; for an unknown one a record with nothing known."""
    return LANGUAGE_MODELS.get(config.model_type) or Family()


def config_class(model_type: str) -> type[PreTrainedConfig]:
    """Class of the config of a language model, also of one from another package.

    Raises:
        ValueError: the model_type is not known.
    """
    known = isinstance(model_type, str)
    own = family.config if known and (family := LANGUAGE_MODELS.get(model_type)) else None
    if own is None and not (known and model_type in CONFIG_MAPPING):
        raise ValueError(f"unknown model_type {model_type!r}")
    return own or CONFIG_MAPPING[model_type]


def proven(family: Family, language_model: PreTrainedModel) -> Family:
    """The record of a family, completed by a proof where it is not known to be exact.

    A proof is made once per config and weights: with the small weights of a new model attention changes little.

    On the meta device nothing can be proven, and the record is returned as it is.

    Raises:
        UserError: samples in one pack would not give what they give one by one.
    """
    if family.exact or any(parameter.is_meta for parameter in language_model.parameters()):
        return family
    config = language_model.config
    key = proof_key(language_model)
    if key not in _PROVEN:
        _PROVEN[key] = _proof(family, language_model)
    found = _PROVEN[key]
    if isinstance(found, str):
        raise refusal(config, found)
    return found


def refusal(config: PreTrainedConfig, reason: str) -> UserError:
    """Error to raise for a language model that cannot read packs."""
    known = ", ".join(list(LANGUAGE_MODELS)[:4])
    return UserError(
        f"language model {config.model_type!r} cannot read samples that are packed into one sequence ({reason}); "
        f"take one of another family, such as {known}"
    )


def agree(found: Tensor, expected: Tensor, wrong: Tensor) -> bool:
    """Whether values equal the expected ones up to rounding.

    Args:
        wrong: values that come from attending to other tokens. Their distance to the expected ones is the scale.
    """
    # With the small weights of a new model, bidirectional attention differs from causal attention by less than 1 %.
    share = 1e-3 if found.dtype in (torch.float32, torch.float64) else 0.1
    found, expected, wrong = found.float(), expected.float(), wrong.float()
    rounding = 4 * torch.finfo(found.dtype).eps * expected.norm()
    return bool((found - expected).norm() <= max(share * (wrong - expected).norm(), rounding))


def proof_key(language_model: PreTrainedModel) -> str:
    """Key of what was proven of a model: its config, and a few of its weights."""
    return f"{language_model.config.to_json_string()} {tokens_of_proof(language_model)[0, :8].tolist()}"


def tokens_of_proof(language_model: PreTrainedModel) -> Tensor:
    """Embeddings of a few tokens, (TOKENS, D)."""
    ids = torch.arange(3, 3 + TOKENS, device=language_model.device) % language_model.config.vocab_size
    return language_model.get_input_embeddings()(ids)


def _proof(family: Family, language_model: PreTrainedModel) -> Family | str:
    """The record with what was proven, or the reason why packs are not exact.

    The reference is the model's own attention ("eager"), one sample at a time.
    """
    training = language_model.training
    language_model.eval()
    try:
        with torch.no_grad():
            return _compared(family, language_model)
    except (torch.OutOfMemoryError, torch.AcceleratorError, MemoryError, UserError):
        raise  # says nothing of the family
    except Exception as error:
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    finally:
        language_model.set_attn_implementation(PACKED_ATTENTION)
        language_model.train(training)


def _compared(family: Family, language_model: PreTrainedModel) -> Family | str:
    embeds = tokens_of_proof(language_model)[None]
    positions = torch.tensor([[*range(FIRST), *range(TOKENS - FIRST)]], device=embeds.device)
    pack: dict[str, Any] = {"inputs_embeds": embeds, "position_ids": positions, "cu_seqlens": [0, FIRST, TOKENS]}
    logits = language_model(**pack, use_cache=False).logits[0]
    if not logits.isfinite().all():
        raise UserError(
            f"language model {language_model.config.model_type!r}: its logits are NaN or Inf: a weight is, or they are "
            f"too large for {str(logits.dtype).removeprefix('torch.')}"
        )
    places = torch.tensor([1, TOKENS - 1], device=embeds.device)
    chosen = language_model(**pack, use_cache=False, logits_to_keep=places).logits[0]
    is_plain = _makes_plain_logits(language_model, logits, {**pack, "use_cache": False})
    language_model.set_attn_implementation("eager")
    whole, one, two, *single = (
        language_model(inputs_embeds=part, use_cache=False).logits[0]
        for part in (embeds, embeds[:, :FIRST], embeds[:, FIRST:], *embeds[:, :FIRST].split(1, dim=1))
    )
    alone = torch.cat(single)  # what the first sample gives without any attention to other tokens
    if not agree(whole[:FIRST], one, alone):
        return "its tokens attend to later ones"
    if not agree(logits[:FIRST], one, alone):
        return "its attention is of another kind"
    if not agree(logits[FIRST:], two, whole[FIRST:]):
        return "a sample attends to the samples before it"
    if not agree(chosen, logits[places], logits[places].flip(0)):
        return "it does not return logits at chosen positions"
    return replace(family, logits=family.logits or (_unchanged if is_plain else None), exact=True)


def _makes_plain_logits(language_model: PreTrainedModel, logits: Tensor, inputs: dict[str, Any]) -> bool:
    """Whether the logits are the output of the head on the last hidden state of the decoder, bit for bit."""
    try:
        hidden = language_model.get_decoder()(**inputs).last_hidden_state[0]
        return torch.equal(language_model.get_output_embeddings()(hidden).to(logits.dtype), logits)
    except (AttributeError, TypeError, NotImplementedError):
        return False
