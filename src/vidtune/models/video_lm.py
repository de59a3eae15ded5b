"""VideoLM: towers, connectors and a causal language model as one transformers model.

Legend: B batch, L tokens, D language-model width, V vocabulary, n media items of a stream, N tokens of an item.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from vidtune.errors import UserError, errors_of
from vidtune.models.config import ADDED_TOKENS, VideoLMConfig
from vidtune.models.distillation import AlignmentConfig, AlignmentHead, aligned_loss
from vidtune.models.language_model.attention import check_attention, check_lengths, register_attention
from vidtune.models.language_model.call_plan import LayerCallPlan, MediaTokens, dropped_in_cache, plan_call
from vidtune.models.language_model.families import family_of, proven
from vidtune.models.language_model.guided_drop import targets_of
from vidtune.models.language_model.layer_call import install
from vidtune.models.language_model.layer_program import LayerProgram
from vidtune.models.language_model.loss import head_loss_sum
from vidtune.models.media_reading import MediaReading, is_trainable
from vidtune.processing.batch import IGNORED, Batch, Item, on_device
from vidtune.processing.processor import VideoLMProcessor
from vidtune.processing.stream_settings import absent_message, condenses

register_attention()


class VideoLM(MediaReading, PreTrainedModel, GenerationMixin):
    """A language model that reads media through streams.

    Prompts contain one placeholder id per media token, so lengths are known before any pixel is decoded. Placeholder
    ids are outside the vocabulary. :meth:`embed` replaces the placeholders by the output of the connectors.

    Args:
        config: the parts of the model, see :class:`VideoLMConfig`.

    Raises:
        UserError: the language model cannot read packs, see :func:`check_attention` and :func:`proven`.
    """

    config_class = VideoLMConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: VideoLMConfig) -> None:
        super().__init__(config)
        check_attention(config.text_config)
        self.towers = nn.ModuleDict({name: config.build_tower(name) for name in config.towers})
        self._changed_towers = {}
        self.connectors = nn.ModuleDict({name: config.connector(name).build() for name in config.connectors})
        self.alignments = nn.ModuleDict({name: config.alignment(name).build() for name in config.alignments})
        for name, spec in config.connectors.items():
            _check_declared_extras(spec["type"], config.connector(name))
        family = family_of(config.text_config)
        self.language_model = family.build(config.text_config)
        self.family = proven(family, self.language_model)
        self.program = self.prepared(config.program)
        for stream in self.alignments:
            self._check_alignment(stream)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model as transformers does; a language model of an unknown family is proven, see :func:`proven`."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.family = proven(model.family, model.language_model)
        return loaded

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise a module of a tower or connector by its ``reset_parameters``; the language model has its own rule.

        A module whose values were all loaded keeps them. transformers before 5.17 calls this for every module and
        protects only parameters, so that the loaded running statistics of a batch norm would be lost.
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

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Device of the language model's embeddings, where prompts are put together; towers may have another one."""
        return next(self.get_input_embeddings().parameters()).device

    def components(self) -> dict[str, nn.Module]:
        """Parts by the name that the ``train`` mapping of a recipe uses (``towers.video``); without absent towers.

        The rows of added tokens are a part while they are parameters of their own, see :class:`TokenRows`.
        """
        absent = self.config.absent_towers
        rows = getattr(self.language_model, ADDED_TOKENS.rpartition(".")[2], None)
        return {
            **{f"towers.{name}": tower for name, tower in self.towers.items() if name not in absent},
            **{f"connectors.{name}": connector for name, connector in self.connectors.items()},
            **{f"alignments.{name}": head for name, head in self.alignments.items()},
            **({} if rows is None else {ADDED_TOKENS: rows}),
            "language_model": self.language_model,
        }

    def missing_towers(self, streams: Iterable[str]) -> str | None:
        """Message about towers that files of these streams need and the model does not have; None if it has all."""
        needed = dict.fromkeys(self.config.streams[stream]["tower"] for stream in streams)
        absent = {name: self.config.towers[name]["absent"] for name in needed if name in self.config.absent_towers}
        return absent_message(absent) if absent else None

    def add_alignments(self, sizes: dict[str, dict[str, Any]]) -> None:
        """Add new alignment heads, with random weights, for streams that have none.

        Args:
            sizes: stream -> sizes of its head, see :class:`AlignmentConfig`.

        Raises:
            UserError: a stream already has a head with other sizes.
        """
        for stream, spec in sizes.items():
            head = AlignmentConfig(**spec).build()
            if stream not in self.alignments:
                self.config.alignments[stream] = spec
                self.alignments[stream] = head.to(device=self.device, dtype=self.dtype)
            elif self.alignments[stream].config != head.config:
                raise UserError(f"distillation.{stream}: the model brings a head of {self.alignments[stream].config}")
            self._check_alignment(stream)

    def _check_alignment(self, stream: str) -> None:
        """Raise UserError where an alignment head looks at layers in which tokens of its stream are missing."""
        states = self.config.text_config.num_hidden_layers + 1
        last = max(layer % states for layer in self.config.alignment(stream).layers)
        after = min((drop.after for drop in self.program.drops if stream in drop.streams), default=last)
        if last > after:
            raise UserError(
                f"distillation.{stream}: hidden states of layer {last} are aligned, but the layer program drops tokens "
                f"of the stream after layer {after}; align a layer before that"
            )

    def alignment(self, hidden_states: Sequence[Tensor], batch: Batch) -> dict[str, tuple[Tensor, int]]:
        """Alignment losses of a packed batch by stream: the sum over frames, and the number of frames.

        Divide the sum by the number, both over all packs of a step, and add the weighted quotient to the mean
        cross-entropy. A stream without media to align is left out; if its head is trained, its loss is zero with a
        graph.

        Args:
            hidden_states: all hidden states, (1, L, D) each, as transformers returns them: embeddings first, the last
                one normalised.
            batch: the pack. Media that are to be aligned have features of the teacher, :attr:`Item.teacher`.

        Raises:
            ValueError: the tower has no ``token_grids``.
        """
        losses = {}
        places = self.find_places(batch.input_ids, batch.media) if batch.places is None else batch.places
        for stream, head in self.alignments.items():
            items = [
                (item, place, item.teacher.values)
                for item, place in zip(batch.media.get(stream, ()), places.get(stream, ()), strict=True)
                if item.teacher is not None
            ]
            if not items and not is_trainable(head):
                continue
            tower = self.config.tower(self.config.streams[stream]["tower"])
            if items and not hasattr(tower, "token_grids"):
                raise ValueError(f"stream {stream!r}: distillation needs a tower that tells where its tokens stand")
            grids = [tower.token_grids(tuple(item.values.shape)) for item, _, _ in items]
            losses[stream] = aligned_loss(
                cast(AlignmentHead, head),
                hidden_states,
                [place for _, place, _ in items],
                grids,
                [features for _, _, features in items],
            )
        return losses

    def prepared(self, program: LayerProgram) -> LayerProgram:
        """The same program, after the decoder layers were made ready to follow it in calls that carry it."""
        if program:
            install(program, self.family.decoder_layers(self.language_model), self.language_model.get_decoder())
        return program

    def use_layer_program(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Give the model another layer program, also in its config; an empty one takes away what it has.

        Raises:
            UserError: steps that cannot be read, or that do not fit the model.
        """
        self.program = self.prepared(self.config.read_program(steps))
        self.config.layer_program = [dict(step) for step in steps]
        for stream in self.alignments:
            self._check_alignment(stream)

    def plan(self, batch: Batch, media: Sequence[MediaTokens] | None = None) -> LayerCallPlan:
        """What the layer program does in the forward pass of a pack.

        Rules that choose by attention ask the tokens before the supervised ones in training mode, else the last token
        of every example.

        Args:
            media: the media tokens of the pack with their levels; None: without levels, to count tokens.
        """
        if media is None:
            places = self.find_places(batch.input_ids, batch.media) if batch.places is None else batch.places
            media = [MediaTokens(stream, place) for stream, found in places.items() for place in found]
        targets = targets_of(batch.supervised) if self.training else None
        return plan_call(self.program, np.diff(batch.cu_seqlens).tolist(), media, targets=targets)

    def loss_sum(self, batch: Batch) -> Tensor:
        """Summed cross-entropy of a packed batch over its supervised tokens.

        Logits are computed only at supervised positions, and in chunks where it is known how the family makes them
        (:attr:`Family.logits`).

        Shape: scalar, float32. Divide by :attr:`Batch.num_supervised` (over all micro-batches) for the mean.
        """
        return self.loss_terms(batch)[0]

    def loss_terms(self, batch: Batch) -> tuple[Tensor, dict[str, tuple[Tensor, int]]]:
        """All losses of a packed batch, in one forward pass: :meth:`loss_sum`, and :meth:`alignment` by stream."""
        check_lengths(self.config.text_config, np.diff(batch.cu_seqlens))
        supervised = on_device(batch.supervised, batch.labels.device)
        targets = batch.labels[0, 1:][supervised]
        embeds, media = self.read(batch.input_ids, batch.media, batch.places)
        plan = self.plan(batch, media)
        inputs = {
            "inputs_embeds": embeds,
            "position_ids": batch.position_ids,
            "cu_seqlens": batch.cu_seqlens,
            "use_cache": False,
            "output_hidden_states": len(self.alignments) > 0,
            **plan.inputs(self.language_model.get_decoder(), batch.position_ids),
        }
        if self.family.logits is not None:
            with self._reads_axes(batch.position_ids):
                output = self.language_model.get_decoder()(**inputs)
            hidden = output.last_hidden_state[0]
            positions = plan.places_before(batch.supervised + 1, hidden.device)
            head = self.language_model.get_output_embeddings()
            loss = head_loss_sum(head, hidden[positions], targets, self.family.logits(self.config.text_config))
        else:
            known = None if plan.guided else plan.places_before(batch.supervised + 1, embeds.device)
            with self._reads_axes(batch.position_ids):
                output = self.language_model(**inputs, logits_to_keep=0 if known is None else known)
            logits = output.logits[0]
            if known is None:
                logits = logits[plan.places_before(batch.supervised + 1, logits.device)]
            loss = cross_entropy(logits.float(), targets, reduction="sum")
        aligned = {}
        if len(self.alignments):
            states = [plan.spread(state, layers) for layers, state in enumerate(output.hidden_states)]
            aligned = self.alignment(states, batch)
        return loss + self.untouched_streams(batch.media), aligned

    def _reads_axes(self, position_ids: Tensor | None) -> AbstractContextManager[None]:
        """Around a call of the language model: what it raises about positions of several axes becomes a UserError."""
        if position_ids is None or position_ids.dim() < 3:
            return nullcontext()
        kind = self.config.text_config.model_type
        return errors_of(f"language model of type {kind!r} with positions of {len(position_ids)} axes")

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        media: dict[str, list[Item]] | None = None,
        cu_seqlens: list[int] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Forward pass in the form of transformers; ``media`` replace the placeholders of ``input_ids``.

        Args:
            input_ids: (B, L), placeholders expanded.
            labels: (B, L), -100 where not supervised. The loss is the mean over the supervised tokens; labels are
                shifted here.
            media: the media of each stream.
            cu_seqlens: boundaries of the examples of a packed (1, L) input; ``position_ids`` must then restart at 0 in
                every example.

        With a layer program the batch has one row without padding. Media of ``inputs_embeds`` are not known, so that
        nothing is dropped or added there.

        Raises:
            ValueError: neither ids nor embeddings, or several rows with a layer program.
        """
        found: list[MediaTokens] = []
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give input_ids or inputs_embeds")
            inputs_embeds, found = self.read(input_ids, media)
        packed: dict[str, Any] = {} if cu_seqlens is None else {"cu_seqlens": cu_seqlens}
        check_lengths(self.config.text_config, () if cu_seqlens is None else np.diff(cu_seqlens))
        plan = None
        if self.program:
            attention_mask, length = None, inputs_embeds.shape[1]
            if position_ids is None:
                begin = past_key_values.get_seq_length() if past_key_values is not None else 0
                position_ids = torch.arange(begin, begin + length, device=inputs_embeds.device)[None]
            plan = self._plan_of_rows(inputs_embeds, found, labels, past_key_values, cu_seqlens)
            packed |= plan.inputs(self.language_model.get_decoder(), position_ids)
        with self._reads_axes(position_ids):
            output = self.language_model(
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache if cu_seqlens is None else False,
                logits_to_keep=0 if labels is not None else logits_to_keep,
                **packed,
                **kwargs,
            )
        if labels is not None:
            if plan is not None:
                labels = labels[:, plan.kept(len(self.program.boundaries), labels.device)]
            shifted = output.logits[:, :-1].float().flatten(0, 1)
            output.loss = cross_entropy(shifted, labels[:, 1:].flatten(), ignore_index=IGNORED)
        return output

    def _plan_of_rows(
        self,
        embeds: Tensor,
        media: Sequence[MediaTokens],
        labels: Tensor | None,
        cache: Any,
        cu_seqlens: list[int] | None,
    ) -> LayerCallPlan:
        """What the layer program does in a call of :meth:`forward`. Raises ValueError for several rows."""
        if len(embeds) > 1:
            raise ValueError(f"{len(embeds)} rows; with a layer program give one row without padding")
        lengths = [embeds.shape[1]] if cu_seqlens is None else np.diff(cu_seqlens).tolist()
        targets = None
        if labels is not None and self.training:
            targets = targets_of(np.flatnonzero(labels[0, 1:].cpu().numpy() != IGNORED))
        return plan_call(self.program, lengths, media, dropped_in_cache(self.program, cache), targets=targets)

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Inputs of one step of ``generate``; the media are passed only with the placeholders."""
        media = kwargs.pop("media", None)
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        ids = inputs.get("input_ids")
        if media and ids is not None and bool((ids >= self.config.text_config.vocab_size).any()):
            inputs["media"] = media
        return inputs


def _check_declared_extras(kind: str, connector: Any) -> None:
    """Raise UserError for a connector that would never get the extras that it declares."""
    if getattr(connector, "extras", {}) and not getattr(connector, "takes_items", False) and not condenses(connector):
        raise UserError(f"connector type {kind!r} declares extras, but gets none without takes_items or condense")


# exist_ok: vidtune.models.auto may have announced the names before.
AutoConfig.register(VideoLMConfig.model_type, VideoLMConfig, exist_ok=True)
AutoModel.register(VideoLMConfig, VideoLM, exist_ok=True)
AutoModelForCausalLM.register(VideoLMConfig, VideoLM, exist_ok=True)
AutoProcessor.register(VideoLMConfig, VideoLMProcessor, exist_ok=True)
