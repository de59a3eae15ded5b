"""Contrastive alignment: media and texts become unit vectors, and those of one pair are the most alike of a step.

Legend: n media or texts, P pairs, C width of the pooled output of a tower, W width in which media and texts are
compared.
Sources: softmax loss, CLIP (arXiv:2103.00020); sigmoid loss, SigLIP (arXiv:2303.15343); towers of other media bound to
a text tower that stays as it is, LanguageBind (arXiv:2310.01852).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid, normalize
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from vidtune.models.config import VideoLMConfig
from vidtune.models.media_reading import is_trainable
from vidtune.models.towers.clip import with_lean_activations
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Batch, Item

Loss = Literal["softmax", "sigmoid"]
GROUP = "contrast"
"""Group of the components that only this objective has, in ``train``."""
TEXT_TOWER, TEMPERATURE = f"{GROUP}.text_tower", f"{GROUP}.temperature"
MAX_LOG_SCALE = math.log(100.0)
FIRST_TEMPERATURE: dict[Loss, float] = {"softmax": 0.07, "sigmoid": 0.1}
FIRST_BIAS = -10.0


@dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    """What compares media with texts.

    Args:
        text: sizes of the text transformer; its ``projection_dim`` is W.
        projections: stream -> width C of the pooled output that is projected to W; None: it has W already.
        mean: streams whose medium is the mean of the features of its tower; the others take its pooled output.
        loss: "softmax" over all pairs of a step, or "sigmoid" of each pair.
        temperature: first divisor of the products of unit vectors.
        bias: first bias of the sigmoid loss.
    """

    text: CLIPTextConfig
    projections: Mapping[str, int | None]
    mean: tuple[str, ...] = ()
    loss: Loss = "softmax"
    temperature: float = FIRST_TEMPERATURE["softmax"]
    bias: float = FIRST_BIAS

    @property
    def components(self) -> list[str]:
        """Names of the parts that can be trained."""
        return contrast_components(self.projections)

    def build(self) -> "Contrast":
        """The text tower, the projections and the temperature, with random weights."""
        return Contrast(self)


def contrast_components(projections: Mapping[str, int | None]) -> list[str]:
    """Names of the parts of a contrast that can be trained, as ``train`` uses them, for its :class:`ContrastConfig`."""
    projected = [stream for stream, size in projections.items() if size is not None]
    return [TEXT_TOWER, *(f"{GROUP}.{stream}" for stream in projected), TEMPERATURE]


def pooled_sizes(config: VideoLMConfig, mean: Sequence[str]) -> dict[str, int | None]:
    """Width of the pooled output of each stream that has one; None where the tower projects it itself.

    Args:
        mean: streams that take the mean of the features of their tower.
    """
    sizes: dict[str, int | None] = {}
    for stream, parts in config.streams.items():
        tower: Any = config.tower(parts["tower"])
        if stream in mean:
            sizes[stream] = tower.hidden_size
        elif hasattr(tower, "pooled_size"):
            sizes[stream] = None if getattr(tower, "pools_projected", False) else tower.pooled_size
    return sizes


class Temperature(nn.Module):
    """Scale, and for the sigmoid loss bias, of the products of unit vectors. Shape: -> (1,) each, float32"""

    def __init__(self, config: ContrastConfig) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor([math.log(1 / config.temperature)]))
        self.logit_bias = nn.Parameter(torch.tensor([config.bias])) if config.loss == "sigmoid" else None

    def forward(self) -> tuple[Tensor, Tensor]:
        scale = self.logit_scale.float().clamp(0.0, MAX_LOG_SCALE).exp()
        return scale, torch.zeros_like(scale) if self.logit_bias is None else self.logit_bias.float()


class Pairs(NamedTuple):
    """The pairs of a pack as unit vectors; of a sample whose medium several streams read, one pair for each stream.

    Args:
        media, texts: (P, W) float32.
        streams: number of the stream of each pair, (P,) int64.
        scale, bias: see :class:`Temperature`.
        untouched: zero, with a graph to every trained weight that the pack did not use.
    """

    media: Tensor
    texts: Tensor
    streams: Tensor
    scale: Tensor
    bias: Tensor
    untouched: Tensor


class Contrast(nn.Module):
    """Text tower, projections and temperature by which the towers of a model are compared with texts.

    Below ``text_tower`` parameters have the names of transformers.

    Attributes:
        keep_text: callback(key, vector), called for every caption that the text tower read and that has a key, see
            :attr:`Item.key`. Vectors have shape (W,), before they are made unit vectors.
    """

    def __init__(self, config: ContrastConfig) -> None:
        super().__init__()
        self.config = config
        self.keep_text: Callable[[str, Tensor], None] | None = None
        width = config.text.projection_dim
        self.text_tower = CLIPTextModelWithProjection(config.text)
        with_lean_activations(self.text_tower)
        sizes = {stream: size for stream, size in config.projections.items() if size is not None}
        self.projections = nn.ModuleDict({name: nn.Linear(size, width, bias=False) for name, size in sizes.items()})
        self.temperature = Temperature(config)
        for name, size in sizes.items():
            nn.init.normal_(cast(nn.Linear, self.projections[name]).weight, std=size**-0.5)

    def components(self) -> dict[str, nn.Module]:
        """Parts by the name that the ``train`` mapping of a recipe uses."""
        projections = {f"{GROUP}.{stream}": part for stream, part in self.projections.items()}
        return {TEXT_TOWER: self.text_tower, **projections, TEMPERATURE: self.temperature}

    def forward(self, model: VideoLM, batch: Batch) -> Pairs:
        """The pairs of a pack: every medium with the caption of its sample.

        Raises:
            ValueError: a batch without captions.
        """
        scale, bias = self.temperature()
        streams = [stream for stream in self.config.projections if stream in batch.media]
        untouched = self._untouched(model, streams)
        if not streams:
            nothing = torch.zeros(0, self.config.text.projection_dim, device=scale.device)
            return Pairs(nothing, nothing, nothing.new_zeros(0, dtype=torch.long), scale, bias, untouched)
        if batch.captions is None:
            raise ValueError("a pack without captions")
        texts = self._captions(batch.captions)
        media = torch.cat([self.media(model, stream, batch.media[stream]) for stream in streams])
        places = model.find_places(batch.input_ids, batch.media) if batch.places is None else batch.places
        rows = [batch.example_of(place) for stream in streams for place in places[stream]]
        codes = {stream: number for number, stream in enumerate(self.config.projections)}
        kinds = torch.tensor([codes[stream] for stream in streams for _ in batch.media[stream]], device=texts.device)
        return Pairs(media, texts[torch.tensor(rows, device=texts.device)], kinds, scale, bias, untouched)

    def texts(self, ids: Sequence[Tensor]) -> Tensor:
        """Unit vectors of texts, each the state of its last token. Shape: n of (T,) -> (n, W) float32"""
        return normalize(self.text_vectors(ids), dim=-1)

    def text_vectors(self, ids: Sequence[Tensor]) -> Tensor:
        """Output of the text tower, see :meth:`texts`. Shape: n of (T,) -> (n, W) float32"""
        # Attention is causal: what follows the last token of a text does not reach it.
        hidden = self.text_tower.text_model(input_ids=pad_sequence(list(ids), batch_first=True)).last_hidden_state
        last = torch.tensor([len(text) - 1 for text in ids], device=hidden.device)
        return self.text_tower.text_projection(hidden[torch.arange(len(ids), device=hidden.device), last]).float()

    def _captions(self, captions: Sequence[Item]) -> Tensor:
        """Unit vectors of captions: the text tower reads those that are no stored vectors, each key once.

        Shape: n items -> (n, W) float32
        """
        rest = {caption.key or place: caption for place, caption in enumerate(captions) if not caption.encoded}
        read = self.text_vectors([caption.values for caption in rest.values()]) if rest else ()
        found = dict(zip(rest, read, strict=True))
        for key, vector in found.items():
            if self.keep_text is not None and isinstance(key, str):
                self.keep_text(key, vector)
        vectors = [c.values.float() if c.encoded else found[c.key or place] for place, c in enumerate(captions)]
        return normalize(torch.stack(vectors), dim=-1)

    def media(self, model: VideoLM, stream: str, items: Sequence[Item]) -> Tensor:
        """Unit vectors of the media of a stream. Shape: n items -> (n, W) float32"""
        pooled = model.pooled(stream, items, mean=stream in self.config.mean)
        if stream in self.projections:
            projection = cast(nn.Linear, self.projections[stream])
            pooled = projection(pooled.to(projection.weight.dtype))
        return normalize(pooled.float(), dim=-1)

    def _untouched(self, model: VideoLM, streams: Sequence[str]) -> Tensor:
        reached = {model.config.streams[stream]["tower"] for stream in streams}
        idle = [tower for name, tower in model.towers.items() if name not in reached]
        parts = [*idle, *(part for name, part in self.projections.items() if name not in streams)]
        parts += [] if streams else [self.text_tower]
        total = torch.zeros((), device=self.temperature.logit_scale.device)
        for part in filter(is_trainable, parts):
            total = total + 0.0 * torch.stack([p.float().sum() for p in part.parameters() if p.requires_grad]).sum()
        return total


def contrast_loss(
    media: Tensor, texts: Tensor, streams: Tensor, scale: Tensor, bias: Tensor, loss: Loss = "softmax"
) -> Tensor:
    """Loss of the pairs of a step, summed over them; media of different streams are not compared.

    Shape: (P, W), (P, W), (P,), (1,), (1,) -> scalar, float32
    """
    one = softmax_loss if loss == "softmax" else sigmoid_loss
    found = [one(media[streams == kind], texts[streams == kind], scale, bias) for kind in streams.unique().tolist()]
    return torch.stack(found).sum() if found else media.sum() * 0.0


def softmax_loss(media: Tensor, texts: Tensor, scale: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """CLIP's loss, summed over pairs: each medium tells its text among all, each text its medium, half of both."""
    logits, targets = scale * media @ texts.t() + bias, torch.arange(len(media), device=media.device)
    both = (cross_entropy(table, targets, reduction="sum") for table in (logits, logits.t()))
    return sum(both, start=logits.new_zeros(())) / 2


def sigmoid_loss(media: Tensor, texts: Tensor, scale: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """SigLIP's loss, summed over pairs: each medium and text tell by themselves whether they belong together."""
    logits = scale * media @ texts.t() + bias
    signs = 2 * torch.eye(len(media), device=media.device) - 1
    return -logsigmoid(signs * logits).sum()
