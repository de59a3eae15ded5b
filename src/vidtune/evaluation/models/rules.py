"""The protocol of a model that brings a processor of its own: the benchmark's rules, then those of the user."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.harnesses.known import protocol_changes
from vidtune.evaluation.models.frames import STREAMS, FrameRule
from vidtune.evaluation.protocol import Protocol, merged

if TYPE_CHECKING:
    from vidtune.evaluation.benchmarks.base import Benchmark

OF_OUR_MODELS = (
    *("layer_program", "rope", "forced", "condensing", "companions", "towers"),
    *("prompt_format", "without", "features", "blind"),
)
"""Rules of a protocol that a user cannot change for a model with a processor of its own."""


def protocol_by_frames(
    benchmark: "Benchmark",
    prompt_format: str,
    own: Mapping[str, Any],
    kind: str | None = None,
    *,
    blind: bool = False,
    without: Sequence[str] = (),
    features: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Protocol, FrameRule]:
    """Returns the protocol of a benchmark, and its rules of frames.

    Args:
        prompt_format: what turns a question into a prompt.
        own: frame rules of the kind of model, such as ``given``; the benchmark's `frames` come after them.
        kind: kind of model, as a harness names it.
        blind, without, features, overrides: see `protocol_of_checkpoint.protocol_for`.

    Raises:
        UserError: a rule that such a model cannot follow.
    """
    if without or features:
        what = f"stored features ({features[0]})" if features else f"streams that are switched off ({without[0]})"
        raise UserError(f"{benchmark.name}: {what}: the model reads videos by a processor of its own, and nothing else")
    protocol = benchmark.protocol(prompt_format=prompt_format, blind=blind)
    protocol = protocol.model_copy(update={"preprocessing": {**own, **benchmark.frames}})
    for source, rules in protocol_changes(benchmark, kind, overrides, framed=True):
        changes = dict(rules)
        for other in OF_OUR_MODELS:
            if changes.get(other):
                raise UserError(f"{source}: {other}: a model with a processor of its own has no such rule")
        if "preprocessing" in changes:
            changes["preprocessing"] = merged(protocol.preprocessing, changes["preprocessing"])
        protocol = protocol.with_overrides(changes, source)
    if stream := next((one for one in (*protocol.question_media, protocol.stream) if one not in STREAMS), None):
        raise UserError(f"{benchmark.name} needs the stream {stream!r}; this model takes {' and '.join(STREAMS)}")
    if protocol.forced:
        raise UserError(f"{benchmark.name}: gives the answers (forced); only models of vidtune's systems can take them")
    rule = FrameRule.read_rules(protocol)
    return protocol.model_copy(update={"preprocessing": rule.stored()}), rule
