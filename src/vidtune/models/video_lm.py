"""VideoLM: towers, connectors and a causal language model as one transformers model.

Legend: B batch, L tokens, D language-model width, V vocabulary, n media items of a stream, N tokens of an item.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from vidtune.errors import UserError
from vidtune.models.config import VideoLMConfig
from vidtune.models.distillation import AlignmentConfig, AlignmentHead, aligned_loss
from vidtune.models.language_model.attention import PACKED_ATTENTION, check_attention, register_attention
from vidtune.models.language_model.head import knows_logits, logit_adjustment
from vidtune.models.language_model.loss import head_loss_sum
from vidtune.processing.batch import IGNORED, Batch, StreamBatch
from vidtune.processing.processor import VideoLMProcessor
from vidtune.processing.stream_settings import absent_message

register_attention()


class VideoLM(PreTrainedModel, GenerationMixin):
    """A language model that reads media through streams.

    Prompts carry one placeholder id per media token, outside the vocabulary and already expanded, so that lengths are
    known before any pixel is decoded; :meth:`embed` puts the connectors' output in their place.

    Args:
        config: the composition, see :class:`VideoLMConfig`.

    Raises:
        UserError: a language model whose attention packs cannot have, see :func:`check_attention`.
    """

    config_class = VideoLMConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    keep_features: Callable[[str, str, Tensor], None] | None = None
    """Told stream, key (:attr:`StreamBatch.keys`) and tower features, (N, C), of every item that a tower encoded."""

    def __init__(self, config: VideoLMConfig) -> None:
        super().__init__(config)
        check_attention(config.text_config)
        self.towers = nn.ModuleDict({name: config.build_tower(name) for name in config.towers})
        self.connectors = nn.ModuleDict({name: config.connector(name).build() for name in config.connectors})
        self.alignments = nn.ModuleDict({name: config.alignment(name).build() for name in config.alignments})
        self.language_model = AutoModelForCausalLM.from_config(config.text_config, attn_implementation=PACKED_ATTENTION)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Each module of a tower or connector starts as it was built; the language model knows its own rule.

        A module whose values were all loaded keeps them: transformers before 5.17 asks for every module and protects
        parameters alone, so the running statistics of a batch norm would be lost.
        """
        values = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if values and all(getattr(value, "_is_hf_initialized", False) for value in values):
            return
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_output_embeddings(value)

    def components(self) -> dict[str, nn.Module]:
        """Every part by the name that a recipe's ``train`` mapping uses, e.g. ``towers.video``; no absent towers."""
        absent = self.config.absent_towers
        return {
            **{f"towers.{name}": tower for name, tower in self.towers.items() if name not in absent},
            **{f"connectors.{name}": connector for name, connector in self.connectors.items()},
            **{f"alignments.{name}": head for name, head in self.alignments.items()},
            "language_model": self.language_model,
        }

    def missing_towers(self, streams: Iterable[str]) -> str | None:
        """What to do about towers that files of these streams need and the model is without; None if it has all."""
        needed = dict.fromkeys(self.config.streams[stream]["tower"] for stream in streams)
        absent = {name: self.config.towers[name]["absent"] for name in needed if name in self.config.absent_towers}
        return absent_message(absent) if absent else None

    def add_alignments(self, sizes: dict[str, dict[str, Any]]) -> None:
        """Heads for distillation, drawn at random, of streams that have none yet.

        Raises:
            UserError: a stream has a head already, of other sizes.
        """
        for stream, spec in sizes.items():
            head = AlignmentConfig(**spec).build()
            if stream not in self.alignments:
                self.config.alignments[stream] = spec
                self.alignments[stream] = head.to(device=self.device, dtype=self.dtype)
            elif self.alignments[stream].config != head.config:
                raise UserError(f"distillation.{stream}: the model brings a head of {self.alignments[stream].config}")

    def tower_features(self, stream: str, values: Tensor | Sequence[Tensor]) -> Tensor | Sequence[Tensor]:
        """What a stream's tower makes of media items; a frozen one runs without a graph.

        Shape: (n, *item) -> (n, N, C), or a list of items of different shapes -> list of (N, C)
        """
        tower = self.towers[self.config.streams[stream]["tower"]]
        dtype = _dtype(tower)
        with torch.set_grad_enabled(torch.is_grad_enabled() and is_trainable(tower)):
            if getattr(tower, "takes_lists", False):
                return tower([value.to(device=self.device, dtype=dtype) for value in values])
            if isinstance(values, Tensor):
                return tower(values.to(device=self.device, dtype=dtype))
            return [tower(value.unsqueeze(0).to(device=self.device, dtype=dtype))[0] for value in values]

    def connect(self, stream: str, features: Tensor | Sequence[Tensor]) -> Tensor | Sequence[Tensor]:
        """Embeddings of tower features, (n, N, C) -> (n, N, D) or list of (N, C) -> list of (N, D)."""
        connector = self.connectors[self.config.streams[stream]["connector"]]
        dtype = _dtype(connector)
        if isinstance(features, Tensor):
            return connector(features.to(device=self.device, dtype=dtype))
        together = torch.cat([block.to(device=self.device, dtype=dtype) for block in features])
        return connector(together).split([len(block) for block in features])

    def encode(self, stream: str, values: Tensor | Sequence[Tensor]) -> Tensor | Sequence[Tensor]:
        """Embeddings of media items, (n, *item) -> (n, N, D) or, of different shapes, lists of them."""
        return self.connect(stream, self.tower_features(stream, values))

    def encode_items(self, stream: str, batch: StreamBatch) -> Iterator[Tensor]:
        """Embeddings of every item in order, each cut to the tokens of it that stand in the prompt."""
        encoded = batch.encoded or [False] * len(batch)
        if all(encoded):
            features: Any = batch.values
        elif not any(encoded):
            features = self.tower_features(stream, batch.values)
        else:
            rest = [value for value, done in zip(batch.values, encoded, strict=True) if not done]
            same = len({value.shape for value in rest}) == 1
            found = iter(self.tower_features(stream, torch.stack(rest) if same else rest))
            features = [value if done else next(found) for value, done in zip(batch.values, encoded, strict=True)]
        if self.keep_features is not None and batch.keys is not None:
            for key, block, done in zip(batch.keys, features, encoded, strict=True):
                if key is not None and not done:
                    self.keep_features(stream, key, block)
        for block, length in zip(self.connect(stream, features), batch.num_tokens, strict=True):
            yield block[:length]

    def embed(self, input_ids: Tensor, media: dict[str, StreamBatch] | None = None) -> Tensor:
        """Embed ids, placeholders replaced by media, (B, L) -> (B, L, D).

        Raises:
            ValueError: the placeholders of a stream are not as many as the tokens of its media; names both.
        """
        media = media or {}
        vocab_size = self.config.text_config.vocab_size
        embeds = self.get_input_embeddings()(input_ids.masked_fill(input_ids >= vocab_size, 0))
        for stream, placeholder in self.config.placeholder_ids.items():
            places = input_ids == placeholder
            expected = int(places.sum())
            blocks = list(self.encode_items(stream, media[stream])) if stream in media else []
            found = sum(len(block) for block in blocks)
            if expected != found:
                raise ValueError(f"{expected} placeholders of stream {stream!r} for {found} media tokens")
            if blocks:
                embeds = embeds.masked_scatter(places.unsqueeze(-1), torch.cat(blocks).to(embeds.dtype))
        return embeds

    def untouched_streams(self, media: dict[str, StreamBatch]) -> Tensor:
        """Zero, with a graph to every trainable tower and connector that ``media`` does not reach.

        Keeps gradients (as zeros) independent of what a batch happens to hold: optimizers then treat every step alike
        and ranks without a modality take part in the same collectives. Towers are touched in eval mode, so that running
        statistics do not take the zeros up.
        """
        reached = {part for name in media for part in self.config.streams[name].items()}
        total = torch.zeros((), device=self.device)
        for stream, parts in self.config.streams.items():
            idle = [
                part
                for kind, part in (("tower", self.towers), ("connector", self.connectors))
                if (kind, parts[kind]) not in reached and is_trainable(part[parts[kind]])
            ]
            if idle:
                tower = self.towers[parts["tower"]]
                training = tower.training
                tower.eval()
                blocks = self.encode_zeros(stream, through_tower=is_trainable(tower))
                total = total + 0.0 * torch.stack([block.float().sum() for block in blocks]).sum()
                tower.train(training)
                reached |= set(parts.items())
        return total

    def encode_zeros(self, stream: str, number: int = 1, through_tower: bool = True) -> Sequence[Tensor]:
        """Embeddings of items in which all values are zero, list of (N, D).

        Args:
            through_tower: False, or an absent tower: the tower's features are zero instead.
        """
        name = self.config.streams[stream]["tower"]
        tower = self.config.tower(name)
        shape = tower.input_shape()
        if through_tower and name not in self.config.absent_towers:
            return list(self.encode(stream, torch.zeros(number, *shape, device=self.device)))
        features = torch.zeros(number, tower.num_tokens(shape), tower.hidden_size, device=self.device)
        return list(self.connect(stream, features))

    def alignment(self, hidden_states: Sequence[Tensor], batch: Batch) -> dict[str, tuple[Tensor, int]]:
        """Distillation losses of a packed batch by stream: the sum over frames, and over how many.

        Divide by the count over all packs of a step, and add the quotient, weighted, to the mean cross-entropy. A head
        that trains gives a zero with a graph where there is nothing to align; other streams are left out then.

        Args:
            hidden_states: all of them, (1, L, D) each, as transformers gives them: embeddings first, last one normed.
            batch: its media carry the teacher's features (:attr:`StreamBatch.teacher`) where they are to be aligned.

        Raises:
            ValueError: the tower does not tell where its tokens stand.
        """
        losses = {}
        for stream, head in self.alignments.items():
            media = batch.media.get(stream)
            if (media is None or media.teacher is None) and not is_trainable(head):
                continue
            places: Sequence[Tensor] = []
            grids = []
            if media is not None and media.teacher is not None:
                tower = self.config.tower(self.config.streams[stream]["tower"])
                if not hasattr(tower, "token_grids"):
                    raise ValueError(f"stream {stream!r}: distillation needs a tower that tells where its tokens stand")
                found = (batch.input_ids[0] == self.config.placeholder_ids[stream]).nonzero().squeeze(1)
                places = found.split(media.num_tokens)
                grids = [tower.token_grids(tuple(value.shape)) for value in media.values]
            teacher = [] if media is None or media.teacher is None else list(media.teacher)
            losses[stream] = aligned_loss(cast(AlignmentHead, head), hidden_states, places, grids, teacher)
        return losses

    def loss_sum(self, batch: Batch) -> Tensor:
        """Summed cross-entropy of a packed batch over its supervised tokens; logits exist at those positions only,
        and there a chunk at a time where the family's head is known (:func:`knows_logits`).

        Shape: scalar, float32. Divide by :attr:`Batch.num_supervised` (over all micro-batches) for the mean.
        """
        return self.loss_terms(batch)[0]

    def loss_terms(self, batch: Batch) -> tuple[Tensor, dict[str, tuple[Tensor, int]]]:
        """What a packed batch is trained on, in one forward pass: :meth:`loss_sum`, and :meth:`alignment` by stream."""
        targets = batch.labels[0, 1:]
        positions = (targets != IGNORED).nonzero().squeeze(1)
        inputs = {
            "inputs_embeds": self.embed(batch.input_ids, batch.media),
            "position_ids": batch.position_ids,
            "cu_seqlens": batch.cu_seqlens,
            "use_cache": False,
            "output_hidden_states": len(self.alignments) > 0,
        }
        config = self.config.text_config
        if knows_logits(config):
            output = self.language_model.get_decoder()(**inputs)
            hidden = output.last_hidden_state[0]
            head = self.language_model.get_output_embeddings()
            loss = head_loss_sum(head, hidden[positions], targets[positions], logit_adjustment(config))
        else:
            output = self.language_model(**inputs, logits_to_keep=positions)
            loss = cross_entropy(output.logits[0].float(), targets[positions], reduction="sum")
        aligned = self.alignment(output.hidden_states, batch) if len(self.alignments) else {}
        return loss + self.untouched_streams(batch.media), aligned

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        media: dict[str, StreamBatch] | None = None,
        cu_seqlens: list[int] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Plain transformers forward; ``media`` fills the placeholders of ``input_ids``.

        Args:
            input_ids: (B, L), placeholders expanded.
            labels: (B, L), -100 where not supervised; the loss is the mean over the rest, shifted by one.
            cu_seqlens: example boundaries of a packed (1, L) input; needs ``position_ids`` that restart.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give input_ids or inputs_embeds")
            inputs_embeds = self.embed(input_ids, media)
        packed = {} if cu_seqlens is None else {"cu_seqlens": cu_seqlens}
        output = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=False if packed else use_cache,
            logits_to_keep=0 if labels is not None else logits_to_keep,
            **packed,
            **kwargs,
        )
        if labels is not None:
            shifted = output.logits[:, :-1].float().flatten(0, 1)
            output.loss = cross_entropy(shifted, labels[:, 1:].flatten(), ignore_index=IGNORED)
        return output

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        media = kwargs.pop("media", None)
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        ids = inputs.get("input_ids")
        if media and ids is not None and bool((ids >= self.config.text_config.vocab_size).any()):
            inputs["media"] = media
        return inputs


def is_trainable(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _dtype(module: nn.Module) -> torch.dtype | None:
    """The dtype of a module's parameters; None (leave as it is) for a module without any."""
    return next((parameter.dtype for parameter in module.parameters()), None)


# exist_ok: vidtune.models.auto may have announced the names before.
AutoConfig.register(VideoLMConfig.model_type, VideoLMConfig, exist_ok=True)
AutoModel.register(VideoLMConfig, VideoLM, exist_ok=True)
AutoModelForCausalLM.register(VideoLMConfig, VideoLM, exist_ok=True)
AutoProcessor.register(VideoLMConfig, VideoLMProcessor, exist_ok=True)
