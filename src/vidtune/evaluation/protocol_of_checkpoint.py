"""The protocol of a checkpoint on a benchmark: the benchmark's rules, then those for its system, then the user's."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.base import Benchmark
from vidtune.evaluation.benchmarks.harnesses.known import protocol_changes
from vidtune.evaluation.checkpoint import LoadedCheckpoint, companions_of, processor_for
from vidtune.evaluation.protocol import MEDIA, Protocol
from vidtune.media.clip_times import Part
from vidtune.media.preprocessing.kinds import as_read, unseeded_problem
from vidtune.models.changed_towers import require_settings
from vidtune.processing.prompts.chat_template import CHAT_TEMPLATE
from vidtune.processing.stream_settings import condenses, needs_files_message
from vidtune.spelling import suggestion

if TYPE_CHECKING:
    from vidtune.models.config import VideoLMConfig
    from vidtune.processing.prompts.format import PromptFormat
    from vidtune.processing.stream_settings import StreamSettings


def protocol_for(
    loaded: LoadedCheckpoint,
    benchmark: Benchmark,
    *,
    blind: bool = False,
    without: Sequence[str] = (),
    features: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
) -> Protocol:
    """Returns the protocol of a benchmark for this checkpoint.

    The rules of the benchmark come first. Its rules for the checkpoint's system replace them, then those of a harness
    that ``overrides`` name, then ``overrides``.

    Args:
        blind, without, features: see `Protocol`.

    Raises:
        UserError: a rule that this checkpoint cannot follow, or two rules that exclude each other.
    """
    protocol = benchmark.protocol(prompt_format=loaded.system.dialect.answering_prompt, blind=blind)
    protocol = protocol.model_copy(update={"companions": {name: {} for name in companions_of(loaded, protocol)}})
    chosen = _chosen(benchmark, loaded.system.name, overrides)
    for source, changes in chosen:
        protocol = protocol.with_overrides(changes, source)
    said = {rule for _, changes in chosen for rule in changes}
    protocol = _with_prompt(loaded, protocol, "question_template" in said, benchmark.other_streams)
    protocol = protocol.model_copy(
        update={
            "without": _in_order(loaded, protocol, (*protocol.without, *without)),
            "features": _in_order(loaded, protocol, (*protocol.features, *features)),
        }
    )
    protocol = _with_reading(loaded, protocol)
    protocol = _with_layer_program(loaded, protocol, "layer_program" in said)
    _require_possible(loaded, protocol)
    require_settings(loaded.checkpoint.model.config, protocol.towers)
    return _with_streams(loaded, protocol)


def _chosen(
    benchmark: Benchmark, system: str, overrides: Mapping[str, Any] | None
) -> list[tuple[str, Mapping[str, Any]]]:
    """(where they come from, changes to the rules of the benchmark), the later ones laid over the earlier.

    Raises:
        UserError: a harness that is not known or does not ask this, or a rule that no user can change.
    """
    own = (f"system {system}", benchmark.system_rules.get(system, {}))
    chosen = [own, *protocol_changes(benchmark, system, overrides)]
    for source, changes in chosen:
        if "condensing" in changes:
            raise UserError(
                f"{source}: condensing is as the checkpoint says; change its connector_settings, or --dtype"
            )
    return chosen


def _with_prompt(loaded: LoadedCheckpoint, protocol: Protocol, said: bool, others: Sequence[str]) -> Protocol:
    """The protocol with what its prompt format brings: the end of an answer, and how a question is written.

    Args:
        said: somebody chose how a question is written.
        others: further streams that questions are about.

    Raises:
        UserError: the system has no such prompt format.
    """
    system = loaded.system
    if protocol.prompt_format not in (*system.dialect.prompts, CHAT_TEMPLATE):
        known = ", ".join(system.dialect.prompts)
        raise UserError(
            f"{protocol.benchmark}: system {system.name} has no prompt format {protocol.prompt_format!r}; "
            f"known: {known}"
        )
    prompt = loaded.checkpoint.processor.prompt_format(protocol.prompt_format)
    if not protocol.generation.stop:
        protocol = protocol.with_overrides({"generation": {"stop": prompt.stop}}, f"system {system.name}")
    if not said and protocol.question_template == Protocol.model_fields["question_template"].default:
        protocol = protocol.model_copy(update=_templates(prompt, protocol.stream, others))
    return protocol


def _with_streams(loaded: LoadedCheckpoint, protocol: Protocol) -> Protocol:
    """The protocol with the preprocessing of every stream that reads something, as the processor holds it.

    Raises:
        UserError: a stream that cannot be read, or whose tower is not there.
    """
    streams = processor_for(loaded, protocol).streams
    for name in protocol.question_media:
        if problem := unseeded_problem(streams[name].preprocessing):
            raise UserError(f"{protocol.benchmark}: question_media.{name}: {problem}")
    _require_towers(loaded, protocol)
    model = loaded.checkpoint.model
    read = [name for name in _used(loaded, protocol) if name not in protocol.without]
    companions = [name for name in companions_of(loaded, protocol) if name in streams]
    return protocol.model_copy(
        update={
            "condensing": condensing_of(model.config, read, str(model.dtype).removeprefix("torch.")),
            "preprocessing": _settings(streams[protocol.stream]),
            "companions": {name: _settings(streams[name]) for name in companions},
            "question_media": {name: _settings(streams[name]) for name in protocol.question_media},
        }
    )


def condensing_of(config: "VideoLMConfig", streams: Sequence[str], dtype: str) -> dict[str, dict[str, Any]]:
    """Stream -> how its connector condenses features, for those that do.

    Args:
        dtype: of the features; compared in it where the connector sets no other.
    """
    connectors = {name: config.connector_of(name) for name in streams}
    found = {
        name: {key: getattr(connector, key) for key in getattr(connector, "condensing", ())}
        for name, connector in connectors.items()
        if condenses(connector)
    }
    return {name: settings | ({"dtype": settings.get("dtype") or dtype}) for name, settings in found.items()}


def _templates(prompt: "PromptFormat", stream: str, others: Sequence[str]) -> dict[str, Any]:
    """How a format writes questions: those of the protocol's stream, and those of others where they differ."""
    usual = _question(prompt, stream)
    own = {name: found for name in others if (found := _question(prompt, name)) != usual}
    return {"question_template": usual, "stream_templates": own}


def _question(prompt: "PromptFormat", stream: str) -> str:
    """How a format writes a question about a medium of this stream."""
    texts = next((one.texts for one in prompt.placements if one.stream == stream), ())
    return texts[0].replace("{tag}", MEDIA) if len(texts) == 1 else prompt.question


def _with_layer_program(loaded: LoadedCheckpoint, protocol: Protocol, said: bool) -> Protocol:
    """The protocol with its layer program in one way of writing; where none was said, that of the model's config."""
    config = loaded.checkpoint.model.config
    program = config.read_program(protocol.layer_program) if said else config.program
    return protocol.model_copy(update={"layer_program": tuple(program.steps)})


def _with_reading(loaded: LoadedCheckpoint, protocol: Protocol) -> Protocol:
    """The protocol with the number of frames that the model was not trained with; without a number that it has anyway.

    Raises:
        UserError: the stream or its tower does not take so many frames.
    """
    part = None if protocol.reading is None else protocol.reading.over(None)
    if part is None or part.num_frames is None or protocol.stream not in loaded.checkpoint.processor.streams:
        return protocol
    processor = processor_for(loaded, protocol).measuring(loaded.checkpoint.model.config.measures())
    steps, ref = processor.preprocessing[protocol.stream], MediaRef(protocol.stream, "").read_as(part)
    try:
        told = processor.reader.untrained(ref)
        if part == Part(frames=part.frames) and as_read(steps, part=part) == steps:
            return protocol.model_copy(update={"reading": None})
    except (SampleProblem, ValueError) as problem:
        raise UserError(f"{protocol.benchmark}: reading: {str(problem).removeprefix(': ')}") from None
    return protocol.model_copy(update={"untrained_length": told})


def _in_order(loaded: LoadedCheckpoint, protocol: Protocol, streams: Sequence[str]) -> tuple[str, ...]:
    """Streams without repetitions, in the order of the prompt, so that equal choices give equal protocols."""
    known = loaded.checkpoint.processor.streams
    if unknown := next((name for name in streams if name not in known), None):
        raise UserError(f"this checkpoint has no stream {unknown!r}; {suggestion(unknown, known)}")
    order = dict.fromkeys((*_used(loaded, protocol), *known))
    return tuple(name for name in order if name in streams)


def _require_possible(loaded: LoadedCheckpoint, protocol: Protocol) -> None:
    """Raise UserError for streams that no question of this benchmark uses, and for blind runs on stored features."""
    used = _used(loaded, protocol)
    for what, streams in (("switched off", protocol.without), ("read from stored features", protocol.features)):
        if stranger := next((name for name in streams if name not in used), None):
            raise UserError(
                f"{protocol.benchmark}: the stream {stranger!r} cannot be {what}: its videos are read by "
                + ", ".join(used)
            )
    settings = loaded.checkpoint.processor.streams
    if refusing := next((name for name in protocol.features if not settings[name].takes_features), None):
        raise UserError(f"{protocol.benchmark}: {needs_files_message(refusing)}")
    if protocol.blind and protocol.features:
        off = " ".join(f"--without {name}" for name in used)
        raise UserError(
            f"{protocol.benchmark}: stored features cannot be made black or silent; for what the model scores without "
            f"seeing or hearing, switch the streams off: {off}"
        )


def _used(loaded: LoadedCheckpoint, protocol: Protocol) -> tuple[str, ...]:
    """The streams that read something for a question."""
    return (protocol.stream, *companions_of(loaded, protocol), *protocol.question_media)


def _require_towers(loaded: LoadedCheckpoint, protocol: Protocol) -> None:
    """Raise UserError where videos have to be read and the model comes without the towers for it."""
    read = protocol.question_media if protocol.features else _used(loaded, protocol)
    message = loaded.checkpoint.model.missing_towers(name for name in read if name not in protocol.without)
    if message is not None:
        raise UserError(f"{protocol.benchmark}: {message}")


def _settings(stream: "StreamSettings") -> dict[str, Any]:
    """Preprocessing of a stream as it is stored in the protocol."""
    settings = stream.preprocessing.model_dump(mode="json")
    settings.pop("blind", None)
    if settings.get("pixels") == "float32":  # left out: hashes from before this setting existed stay valid
        del settings["pixels"]
    return settings
