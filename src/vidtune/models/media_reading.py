"""Media to embeddings: towers, connectors, and the places of the result among the embeddings of a prompt.

Legend: B batch, L tokens, C tower width, D language-model width, n items, N features and M tokens of an item, K taps.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from vidtune.errors import UserError, errors_of
from vidtune.models.changed_towers import rebuilt, require_settings
from vidtune.models.condensing import condensed
from vidtune.models.language_model.call_plan import MediaTokens, split_levels
from vidtune.models.language_model.layer_program import LayerProgram
from vidtune.models.part_output import checked, fits, in_words
from vidtune.processing.batch import Item, on_device, stacked
from vidtune.processing.stream_settings import condenses, is_tokenwise


class MediaReading:
    """The part of a video language model that turns media into embeddings; :class:`VideoLM` has all that it uses."""

    config: Any
    device: torch.device
    towers: nn.ModuleDict
    connectors: nn.ModuleDict
    program: LayerProgram
    _changed_towers: dict[tuple[Any, ...], tuple[Any, nn.Module]]
    get_input_embeddings: Callable[[], nn.Module]
    keep_features: Callable[[str, str, Tensor], None] | None = None
    """Callback(stream, key, features), called for every item that a tower encoded and that has a key, see
    :attr:`Item.key`. Features have shape (N, C)."""

    def tower_features(
        self,
        stream: str,
        values: Tensor | Sequence[Tensor],
        extras: Sequence[Mapping[str, Tensor]] | None = None,
        prepare: Callable[[Tensor], Tensor] | None = None,
        changes: Sequence[tuple[str, Any]] = (),
    ) -> Tensor | Sequence[Tensor]:
        """Features of media items by the tower of a stream, condensed if its connector does that.

        A frozen tower runs without a graph.

        Args:
            extras: extras of each item by name; None: there are none.
            prepare: makes the input of the tower from what runs together, see :attr:`Item.prepare`.
            changes: settings of the tower that differ for these items, see :attr:`Measured.tower`.

        Shape: (n, *item) -> (n, N, C), or a list of items of different shapes -> list of (N, C); if the stream has K
            taps, (n, K, N, C); if its connector condenses, a list
        """
        parts = self.config.streams[stream]
        tower, connector = self.tower_with(parts["tower"], changes), self.config.connector_of(stream)
        taps, config = self.config.taps(stream), self.config.tower(parts["tower"])
        what = f"tower type {self.config.towers[parts['tower']].get('type')!r}"
        shape = (*([len(taps)] if taps else ()), None, config.hidden_size)

        def run(items: Tensor | Sequence[Tensor]) -> Tensor | Sequence[Tensor]:
            items = items if prepare is None else [prepare(item) for item in items]
            with errors_of(what):
                output = self._run_tower(tower, items, taps)
            return checked(what, output, len(items), shape)

        with torch.set_grad_enabled(torch.is_grad_enabled() and is_trainable(tower)):
            if not condenses(connector):
                return run(values)
            kind, part = f"connector type {self.config.connectors[parts['connector']]['type']!r}", cast(Any, connector)
            with errors_of(kind):
                standard = part.condensed_shape((*shape[:-2], config.num_tokens(config.input_shape()), shape[-1]))
                blocks = condensed(tower, run, part, list(values), extras or [{} for _ in values])
            return checked(f"{kind}: condense", blocks, len(values), (*(None for _ in standard[1:]), standard[-1]))

    def _run_tower(
        self, tower: nn.Module, values: Tensor | Sequence[Tensor], taps: tuple[int, ...]
    ) -> Tensor | Sequence[Tensor]:
        """Output of a tower, which computes on its own device, on that of the model."""
        options: dict[str, Any] = {"taps": taps} if taps else {}
        weight = next(tower.parameters(), None)
        there = {"device": self.device} if weight is None else {"device": weight.device, "dtype": weight.dtype}
        if getattr(tower, "takes_lists", False):
            return self._here(tower([value.to(**there) for value in values], **options))
        if isinstance(values, Tensor):
            return self._here(tower(values.to(**there), **options))
        return self._here([tower(value.unsqueeze(0).to(**there), **options)[0] for value in values])

    def _here(self, features: Any) -> Any:
        """Features on the device of the model, as they are where a tower gave no tensors."""
        if isinstance(features, Tensor):
            return features.to(self.device)
        return [self._here(block) for block in features] if isinstance(features, list | tuple) else features

    def connect(
        self,
        stream: str,
        features: Tensor | Sequence[Tensor],
        extras: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> Tensor | Sequence[Tensor]:
        """Embeddings of tower features.

        Args:
            extras: extras of each item by name; None: there are none. Only a connector that takes items gets them.

        Shape: (n, N, C) -> (n, M, D), or list of (N, C) -> list of (M, D)
        """
        name = self.config.streams[stream]["connector"]
        connector, config = self.connectors[name], self.config.connector_of(stream)
        what = f"connector type {self.config.connectors[name]['type']!r}"
        levels = len(self.program.adds.get(stream, ()))
        with errors_of(what):
            output = self._run_connector(connector, config, features, extras)
        rows = () if isinstance(features, Tensor) and features.dim() == 2 else (None,)  # (N, C): items of one row
        shape = (*([1 + levels] if levels else ()), *rows, self.config.text_config.hidden_size)
        note = f"; layer_program adds {levels} levels of stream {stream!r}"
        return checked(what, output, len(features), shape, note)

    def _run_connector(
        self,
        connector: nn.Module,
        config: Any,
        features: Tensor | Sequence[Tensor],
        extras: Sequence[Mapping[str, Tensor]] | None,
    ) -> Tensor | Sequence[Tensor]:
        dtype = _dtype(connector)
        if getattr(config, "takes_items", False):
            moved = [block.to(device=self.device, dtype=dtype) for block in features]
            return connector(moved, extras or [{} for _ in moved])
        if isinstance(features, Tensor):
            return connector(features.to(device=self.device, dtype=dtype))
        moved = [block.to(device=self.device, dtype=dtype) for block in features]
        if is_tokenwise(config):
            return connector(torch.cat(moved)).split([len(block) for block in moved])
        together = stacked(moved)
        return connector(together) if isinstance(together, Tensor) else [connector(block[None])[0] for block in moved]

    def encode(self, stream: str, values: Tensor | Sequence[Tensor]) -> Tensor | Sequence[Tensor]:
        """Embeddings of media items, (n, *item) -> (n, N, D), or lists if items have different shapes."""
        return self.connect(stream, self.tower_features(stream, values))

    def encode_items(self, stream: str, items: Sequence[Item]) -> Iterator[Tensor]:
        """Embeddings of every item in order, each cut to its tokens that are in the prompt.

        Shape: -> (M, D) each; (1 + K, M, D) from a connector that returns levels, see
        :mod:`vidtune.models.language_model.layer_program`.

        Raises:
            UserError: an item becomes another number of tokens than was promised; names the item and both numbers.
        """
        features = self._item_features(stream, items)
        for item, block in zip(items, self.connect(stream, features, [i.extras for i in items]), strict=True):
            promised, given = item.num_tokens if item.measured is None else item.measured.tokens, block.shape[-2]
            if given < promised or (item.measured is not None and given > promised):
                raise UserError(
                    f"{item.name}: stream {stream!r} promises {promised} tokens of it but its connector gives "
                    f"{given}; correct num_tokens in the config of its tower or connector"
                )
            yield block[..., : item.num_tokens, :]

    def _item_features(self, stream: str, items: Sequence[Item]) -> Any:
        """Tower features of every item in order: those that it has, or those of the tower, which are kept."""
        self._check_extras(stream, items)
        features = self._features_of(stream, items)
        self._keep(stream, items, features)
        return features

    def _keep(self, stream: str, items: Sequence[Item], features: Sequence[Tensor]) -> None:
        """Hand what a tower made of the items to ``keep_features``."""
        if self.keep_features is not None:
            for item, block in zip(items, features, strict=True):
                if item.key is not None and not item.encoded:
                    self.keep_features(stream, item.key, block)

    def pooled(self, stream: str, items: Sequence[Item], mean: bool = False) -> Tensor:
        """One vector for each item: the pooled output of its tower, or the mean of the features of the item.

        A frozen tower runs without a graph. The values of an encoded item are its pooled output, unless ``mean``.

        Shape: -> (n, C) float32
        Raises:
            UserError: the tower has no pooled output, or an item is a file of features; names them.
        """
        tower: Any = self.towers[self.config.streams[stream]["tower"]]
        if mean:
            return torch.stack([block.float().flatten(0, -2).mean(0) for block in self._item_features(stream, items)])
        if not hasattr(tower, "pooled"):
            raise UserError(no_pooled_output(stream, self.config))
        if files := [item.name for item in items if item.encoded and item.values.dim() != 1]:
            raise UserError(
                f"{files[0]}: a file of features of stream {stream!r} has no pooled output; give the medium"
            )
        rest = [item for item in items if not item.encoded]
        found = iter(self._pooled(tower, rest) if rest else ())
        vectors = [(item.values.to(self.device) if item.encoded else next(found)).float() for item in items]
        self._keep(stream, items, vectors)
        return torch.stack(vectors)

    def _pooled(self, tower: Any, items: Sequence[Item]) -> Tensor:
        """Pooled output of a tower. Shape: n items -> (n, C)"""
        prepared = [item.values if item.prepare is None else item.prepare(item.values) for item in items]
        values, dtype = stacked(prepared), _dtype(tower)
        with torch.set_grad_enabled(torch.is_grad_enabled() and is_trainable(tower)):
            if isinstance(values, Tensor):
                return tower.pooled(values.to(device=self.device, dtype=dtype))
            return torch.cat([tower.pooled(value[None].to(device=self.device, dtype=dtype)) for value in values])

    def _features_of(self, stream: str, items: Sequence[Item]) -> Any:
        """Tower features of every item: those that it brings, or by the tower as its settings are for the item."""
        if all(item.encoded for item in items):
            return stacked([item.values for item in items])
        ways = dict.fromkeys(() if item.measured is None else item.measured.tower for item in items if not item.encoded)
        found: list[Any] = [item.values for item in items]
        for changes in ways:
            places = [
                place
                for place, item in enumerate(items)
                if not item.encoded and (() if item.measured is None else item.measured.tower) == changes
            ]
            some = [items[place] for place in places]
            prepare = next((item.prepare for item in some if item.prepare is not None), None)
            values = stacked([item.values for item in some])
            features = self.tower_features(stream, values, [item.extras for item in some], prepare, changes)
            if len(some) == len(items):
                return features
            for place, block in zip(places, features, strict=True):
                found[place] = block
        return found

    def tower_with(self, name: str, changes: Sequence[tuple[str, Any]]) -> nn.Module:
        """A tower of the model, or one of other settings that shares its weights, frozen; it is built once.

        Args:
            changes: settings that differ, as (name, value).
        """
        tower = self.towers[name]
        if not changes:
            return tower
        weights = tuple((weight.data_ptr(), weight._version) for weight in tower.parameters())
        known = self._changed_towers.get((name, *changes))
        if known is None or known[0] != weights:
            config = require_settings(self.config, {name: dict(changes)})
            known = self._changed_towers[name, *changes] = weights, rebuilt(name, config, tower)
        return known[1]

    def _check_extras(self, stream: str, items: Sequence[Item]) -> None:
        """Raise UserError for an item without the extras, of the declared shapes, that the stream's connector needs."""
        connector = self.config.connector_of(stream)
        needed = getattr(connector, "extras", {})
        for item in items:
            if item.encoded and not getattr(connector, "takes_items", False):
                continue  # its features were condensed with them
            if absent := [name for name in needed if name not in item.extras]:
                raise UserError(
                    f"{item.name}: stream {stream!r} needs {', '.join(absent)} beside the file; give them in the "
                    f'annotation: "extras": {{"{stream}": {{"{absent[0]}": ...}}}}'
                )
            for name, size in needed.items():
                if not fits(given := tuple(item.extras[name].shape), size):
                    raise UserError(
                        f"{item.name}: stream {stream!r}: extras {name!r} have shape {given}; "
                        f"its connector needs {in_words(size)}"
                    )

    def embed(
        self,
        input_ids: Tensor,
        media: Mapping[str, Sequence[Item]] | None = None,
        places: Mapping[str, Sequence[np.ndarray]] | None = None,
    ) -> Tensor:
        """Embeddings of ids, with placeholders replaced by media, (B, L) -> (B, L, D); arguments as in :meth:`read`."""
        return self.read(input_ids, media, places)[0]

    def read(
        self,
        input_ids: Tensor,
        media: Mapping[str, Sequence[Item]] | None = None,
        places: Mapping[str, Sequence[np.ndarray]] | None = None,
    ) -> tuple[Tensor, list[MediaTokens]]:
        """Embeddings of ids, with placeholders replaced by media, (B, L) -> (B, L, D); and the media tokens among them.

        Args:
            media: the items of each stream, in the order of their tokens in the ids.
            places: for each item of a stream, the positions of its tokens in the flattened ids, see
                :attr:`Batch.places`; None: they are found in the ids, which waits for the device.

        Raises:
            ValueError: the number of placeholders of a stream differs from the number of its media tokens; not checked
                where ``places`` are given.
        """
        media = media or {}
        places = self.find_places(input_ids, media) if places is None else places
        vocab_size = self.config.text_config.vocab_size
        embeds = self.get_input_embeddings()(input_ids.masked_fill(input_ids >= vocab_size, 0))
        found: list[MediaTokens] = []
        for stream in filter(media.__contains__, self.config.placeholder_ids):
            items = [split_levels(block) for block in self.encode_items(stream, media[stream])]
            blocks = torch.cat([block for block, _ in items]).to(embeds.dtype)
            index = on_device(np.concatenate(places[stream]), embeds.device)
            embeds = embeds.flatten(0, 1).index_copy(0, index, blocks).view_as(embeds)
            found += [MediaTokens(stream, *it) for it in zip(places[stream], (rest for _, rest in items), strict=True)]
        return embeds, found

    def find_places(self, input_ids: Tensor, media: Mapping[str, Sequence[Item]]) -> dict[str, list[np.ndarray]]:
        """For each item of a stream, the positions of its tokens in the flattened ids.

        Raises:
            ValueError: the number of placeholders of a stream differs from the number of its media tokens.
        """
        ids, places = input_ids.flatten().cpu().numpy(), {}
        for stream, placeholder in self.config.placeholder_ids.items():
            found, counts = np.flatnonzero(ids == placeholder), [item.num_tokens for item in media.get(stream, ())]
            if len(found) != sum(counts):
                raise ValueError(f"{len(found)} placeholders of stream {stream!r} for {sum(counts)} media tokens")
            places[stream] = np.split(found, np.cumsum(counts)[:-1]) if counts else []
        return places

    def encode_zeros(self, stream: str, number: int = 1, through_tower: bool = True) -> Sequence[Tensor]:
        """Embeddings of items whose values are all zero, list of (M, D).

        Args:
            stream: stream of the items.
            number: number of items.
            through_tower: True encodes zero pixels; False, and with an absent tower, uses zero features.
        """
        name = self.config.streams[stream]["tower"]
        tower = self.config.tower(name)
        shape = tower.input_shape()
        needed = getattr(self.config.connector_of(stream), "extras", {})
        sizes = {name: [1 if length is None else length for length in size] for name, size in needed.items()}
        extras = [{name: torch.zeros(size, device=self.device) for name, size in sizes.items()}] * number
        if through_tower and name not in self.config.absent_towers:
            features = self.tower_features(stream, torch.zeros(number, *shape, device=self.device), extras)
        else:
            features = torch.zeros(number, *self.config.feature_shape(stream, shape), device=self.device)
        return list(self.connect(stream, features, extras))

    def untouched_streams(self, media: Collection[str]) -> Tensor:
        """Zero with a graph to every trainable tower and connector that the streams ``media`` do not use.

        With it every trainable weight has a gradient in every step, possibly zero. Optimizers then treat all steps
        alike, and ranks without a stream take part in the same collectives. Towers run in eval mode here, so that the
        zeros do not change running statistics.
        """
        reached = {(kind, self.config.streams[name][kind]) for name in media for kind in ("tower", "connector")}
        total = torch.zeros((), device=self.device)
        for stream, parts in self.config.streams.items():
            idle = [
                (kind, parts[kind])
                for kind, group in (("tower", self.towers), ("connector", self.connectors))
                if (kind, parts[kind]) not in reached and is_trainable(group[parts[kind]])
            ]
            if idle:
                tower = self.towers[parts["tower"]]
                training = tower.training
                tower.eval()
                blocks = self.encode_zeros(stream, through_tower=is_trainable(tower))
                total = total + 0.0 * torch.stack([block.float().sum() for block in blocks]).sum()
                tower.train(training)
                reached |= {("tower", parts["tower"]), ("connector", parts["connector"])}
        return total


def no_pooled_output(stream: str, config: Any) -> str:
    """Message about a stream whose tower gives no single vector for an item."""
    kind = config.towers[config.streams[stream]["tower"]].get("type")
    return f"stream {stream!r}: a tower of type {kind!r} has no pooled output; set contrast.pool.{stream}: mean"


def is_trainable(module: nn.Module) -> bool:
    """Whether any parameter of the module is trained."""
    return any(parameter.requires_grad for parameter in module.parameters())


def _dtype(module: nn.Module) -> torch.dtype | None:
    """The dtype of the parameters of a module; None, which keeps the dtype of tensors, if it has no parameters."""
    return next((parameter.dtype for parameter in module.parameters()), None)
