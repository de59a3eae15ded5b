"""BERTScore of captions (Zhang et al., arXiv:1904.09675): tokens of two texts matched by the features of an encoder.

Each token of one text is matched with the most similar one of the other, by the cosine of their features; precision is
the mean over the tokens of the prediction, recall over those of the reference, and the value of an item their F1. The
first and the last token, which stand for the whole text, can be matched but are in no mean. No weights by frequency, no
rescaling with a baseline. With several references the best one counts.

The encoder is a folder of transformers; nothing is downloaded.

Legend: B texts, N tokens, C width of the encoder.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidtune.checkpoints.files.fingerprint import checkpoint_fingerprint
from vidtune.errors import ForeignFileError, UserError
from vidtune.evaluation.metrics.base import MetricValues, check_pairs
from vidtune.foreign.files import reading
from vidtune.foreign.model_settings import require_loadable

if TYPE_CHECKING:
    import torch

OWN_CODE = {"local_files_only": True, "trust_remote_code": False}
ENVIRONMENT = "VIDTUNE_BERTSCORE"
"""Environment variable with the folder of the encoder."""
LAYERS = {
    ("bert", 12): 9,
    ("bert", 24): 18,
    ("roberta", 6): 5,
    ("roberta", 12): 10,
    ("roberta", 24): 17,
    ("distilbert", 6): 5,
    ("xlm-roberta", 12): 9,
    ("xlm-roberta", 24): 17,
}
"""(type of encoder, number of layers) -> layer whose features agree best with people. Of other encoders, the last."""
_BATCH = 64


def bert_score_problem() -> str | None:
    """Returns why BERTScore cannot be computed here, and what to give; None: it can."""
    folder = os.environ.get(ENVIRONMENT)
    if not folder:
        return f"no encoder is given: set {ENVIRONMENT} to a folder with a model of transformers, such as roberta-large"
    return None if (Path(folder) / "config.json").is_file() else f"{ENVIRONMENT}: {folder} holds no config.json"


def bert_score_identity() -> dict[str, Any] | None:
    """Returns what BERTScore depends on here, as JSON values; None: it cannot be computed.

    Two encoders whose folders have one name differ in ``fingerprint``.
    """
    if bert_score_problem() is not None:
        return None
    folder = Path(os.environ[ENVIRONMENT])
    config = require_loadable(folder)
    with reading(folder / "config.json"):
        layer = _layer(str(config.get("model_type")), int(config.get("num_hidden_layers", 0)))
    content = checkpoint_fingerprint(folder)
    return {"model": folder.resolve().name, "fingerprint": content, "layer": layer, "rescaled": False}


class BertScore:
    """An encoder that compares texts.

    Args:
        folder: folder of model and tokenizer; None: that of the environment variable.

    Raises:
        UserError: no such folder, or no encoder in it.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        from transformers import AutoModel, AutoTokenizer

        chosen = folder or os.environ.get(ENVIRONMENT)
        if not chosen:
            raise UserError(f"BERTScore: {bert_score_problem()}")
        try:
            require_loadable(Path(chosen))
            with reading(chosen):
                self._tokenizer: Any = AutoTokenizer.from_pretrained(chosen, **OWN_CODE, add_prefix_space=True)
                self._model: Any = AutoModel.from_pretrained(chosen, use_safetensors=True, **OWN_CODE).eval()
        except ForeignFileError as error:
            reason = f"BERTScore: {chosen} holds no model and tokenizer of transformers"
            raise UserError(f"{reason}: {error.reason}") from None
        if self._tokenizer.pad_token is None or self._tokenizer.num_special_tokens_to_add() != 2:
            raise UserError(f"BERTScore: {chosen}: its texts have no first and last token; give an encoder, as BERT is")
        config = self._model.config
        self.layer = _layer(config.model_type, config.num_hidden_layers)

    def scores(self, references: Sequence[Sequence[str]], predictions: Sequence[str]) -> MetricValues:
        """Returns the F1 of texts as they are written. A CaptionMetric.

        Raises:
            ValueError: an item without reference, or lists of different length.
        """
        check_pairs(references, predictions)
        texts = dict.fromkeys([*predictions, *(text for several in references for text in several)])
        known = dict(zip(texts, self._encoded(list(texts)), strict=True))
        return MetricValues.mean(
            [
                max(_f1(known[text], known[prediction]) for text in several)
                for several, prediction in zip(references, predictions, strict=True)
            ]
        )

    def _encoded(self, texts: Sequence[str]) -> "list[torch.Tensor]":
        """Normalised features of each text, first and last token included. Shape: B texts -> B tensors (N, C)"""
        import torch

        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        found: dict[int, torch.Tensor] = {}
        for start in range(0, len(order), _BATCH):
            part = order[start : start + _BATCH]
            read = self._tokenizer(
                [texts[number].strip() for number in part], padding=True, truncation=True, return_tensors="pt"
            )
            with torch.inference_mode():
                hidden = self._model(**read, output_hidden_states=True).hidden_states[self.layer]
            hidden = torch.nn.functional.normalize(hidden.float(), dim=-1)
            for number, features, mask in zip(part, hidden, read["attention_mask"].bool(), strict=True):
                found[number] = features[mask]
        return [found[number] for number in range(len(texts))]


def _layer(kind: str, layers: int) -> int:
    return LAYERS.get((kind, layers), layers)


def _f1(reference: "torch.Tensor", prediction: "torch.Tensor") -> float:
    """F1 of two texts; 0 where one holds no word. Shape: (N, C), (N, C)"""
    if min(len(reference), len(prediction)) < 3:
        return 0.0
    similar = (prediction @ reference.T).numpy().astype(np.float64)
    precision, recall = similar.max(axis=1)[1:-1].mean(), similar.max(axis=0)[1:-1].mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0
