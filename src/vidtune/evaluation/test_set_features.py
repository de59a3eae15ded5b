"""Extraction of everything that a checkpoint reads for the questions of a benchmark into the feature store.

What is asked again and again, such as the clips of one long video in the cells of a grid, is decoded and encoded once,
a few items at a time; runs that read the store do neither.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.harnesses.known import asked_benchmark
from vidtune.evaluation.checkpoint import LoadedCheckpoint, processor_for
from vidtune.evaluation.protocol_of_checkpoint import protocol_for
from vidtune.evaluation.question import media_of
from vidtune.features.cache import TORCH_DTYPES, FeatureCache
from vidtune.features.collection import stream_spec
from vidtune.features.media_listing import refs_read
from vidtune.features.tower_stream import Extraction, TowerStream
from vidtune.features.towers import frozen
from vidtune.media.kept.identity import MediaIdentities
from vidtune.media.preprocessing.kinds import random_setting
from vidtune.models.changed_towers import with_towers


def benchmark_extraction(
    loaded: LoadedCheckpoint, benchmark: str, data: Path, store: Path, rules: Mapping[str, Any] | None = None
) -> Extraction:
    """Returns the extraction of the media of a benchmark, by the towers and the protocol of a checkpoint.

    Args:
        data: folder of the test set, or one above it.
        store: folder of the feature store.
        rules: changes to the protocol, as the run will have them.

    Raises:
        UserError: bad test set or rules, or a checkpoint without its towers.
    """
    test_set = asked_benchmark(benchmark, rules or {})
    questions = test_set.load(Path(data)).with_similar_files()
    protocol = protocol_for(loaded, test_set, overrides=rules)
    processor = processor_for(loaded, protocol)
    model = with_towers(loaded.checkpoint.model, protocol.towers)
    asked = (question for question in questions.questions if not question.missing)
    media = dict.fromkeys(media_of(question, protocol, questions.folder) for question in asked)
    refs = dict.fromkeys(ref for one in media for ref in refs_read(one, processor))
    found, identities = Extraction(test_set.title, {}), MediaIdentities()
    for stream in dict.fromkeys(ref.stream for ref in refs if ref.stream not in protocol.without):
        name, how = model.config.streams[stream]["tower"], processor.preprocessing[stream]
        if (message := model.missing_towers([stream])) is not None:
            raise UserError(f"{benchmark}: {message}")
        if (setting := random_setting(how)) is not None:
            found.refused.append(f"stream {stream}: its preprocessing is random ({setting})")
            continue
        tower = model.towers[name]
        weight = next(tower.parameters())
        kind = str(weight.dtype).removeprefix("torch.")
        if kind not in TORCH_DTYPES:
            raise UserError(f"{benchmark}: features of {kind} are not stored; use --dtype {', '.join(TORCH_DTYPES)}")
        tower = frozen(tower, weight.dtype, weight.device)
        spec = stream_spec(model.config, stream, tower, how, kind, {"system": loaded.system.name})
        found.streams[stream] = TowerStream.of(model.config, stream, tower, how, FeatureCache(store, spec, identities))
    found.refs.extend(ref for ref in refs if ref.stream in found.streams)
    return found
