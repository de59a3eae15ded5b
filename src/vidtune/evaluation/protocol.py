"""The protocol of a benchmark run: every rule that can change a prediction, as one frozen, hashed record.

Two scores can be compared when their protocol hashes are equal. The judge is not part of the protocol: stored
predictions can be judged again.
"""

import hashlib
import json
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vidtune.errors import UserError
from vidtune.generation.settings import GenerationSettings
from vidtune.media.clip_times import Part
from vidtune.spelling import suggestion

QUESTION = "{question}"
MEDIA = "{media}"
NAMED = re.compile(r"\{(\w+)\}")
CAPITALIZED = "_capitalized"
"""Ends the name of a field in a template that stands there as `str.capitalize` writes it."""


def _says_nothing(rule: Any) -> bool:
    """Whether a rule is left out of the record: rules added later have no effect on hashes while they are empty."""
    return not rule


class GenerationRules(BaseModel):
    """How an answer is generated. ``temperature``, ``top_p`` and ``top_k`` act only when ``do_sample`` is true.

    Args:
        stop: strings that end an answer; the first one that ends the text is removed from it once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: int = Field(default=1024, gt=0)
    do_sample: bool = False
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    seed: int = 42
    stop: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _can_be_followed(self) -> "GenerationRules":
        GenerationSettings(**self.model_dump())  # UserError: a value that no decoding can follow
        return self


class FileLookup(BaseModel):
    """Path of the video of a question: ``<folder>/<prefix><video name><first extension that exists>``.

    A video without such a file is looked for under similar names, see `benchmarks.named_files`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str
    prefix: str = ""
    extensions: tuple[str, ...] = (".mp4", ".avi", ".mov", ".mkv")


class ReadingRules(BaseModel):
    """Which frames of every video are read in a run, in the place of those that ``preprocessing`` chooses; see `Part`.

    Args:
        start, end: seconds between which a video is read.
        frames: number of frames.
        frames_at: seconds whose frames are read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: float | None = Field(default=None, exclude_if=_says_nothing)
    end: float | None = Field(default=None, exclude_if=_says_nothing)
    frames: int | None = Field(default=None, exclude_if=_says_nothing)
    frames_at: tuple[float, ...] = Field(default=(), exclude_if=_says_nothing)

    @model_validator(mode="after")
    def _can_be_read(self) -> "ReadingRules":
        self.over(None)
        return self

    def over(self, part: Part | None) -> Part:
        """What of a video is read of which a question names a part; None: it names none."""
        return replace(part or Part(), **{name: getattr(self, name) for name in self.model_fields_set})

    @property
    def words(self) -> tuple[str, ...]:
        """The rules as parts of the name of a run, such as ``("frames", "16")``."""
        return tuple(
            word
            for name, value in self.model_dump().items()
            for word in (name, ",".join(f"{one:g}" for one in value) if isinstance(value, tuple) else f"{value:g}")
        )


class ChoiceRules(BaseModel):
    """How a multiple-choice question is asked and answered.

    Args:
        wording: text of the question; ``{options}`` stands for its options, further names for fields of the question.
        option: one line of the options, with ``{letter}`` and ``{option}``.
        letters: letters of the options in their order; options after the last letter get that one too.
        answering: "text" takes the generated text; "letters" the option whose letter, as ``option`` writes it, is most
            likely by the model; "options" the one whose text is. Likelihoods are means of logarithms over the tokens of
            an option.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    wording: str = f"{QUESTION}\n{{options}}"
    option: str = "{letter}. {option}"
    letters: str = Field(default=string.ascii_uppercase, min_length=1)
    answering: Literal["text", "letters", "options"] = "text"

    def letter(self, place: int) -> str:
        """Letter of the option at this place, from 0."""
        return self.letters[min(place, len(self.letters) - 1)]

    def lines(self, options: Sequence[str]) -> str:
        """The options of a question as they stand in the prompt."""
        return "\n".join(self._line(place, text) for place, text in enumerate(options))

    def scored(self, options: Sequence[str]) -> tuple[str, ...]:
        """The answers whose likelihoods are compared, one per option; none where the text is taken."""
        if self.answering == "letters":
            return tuple(self._line(place, "").strip().rstrip(".:") for place in range(len(options)))
        return tuple(options) if self.answering == "options" else ()

    def _line(self, place: int, text: str) -> str:
        return _filled(self.option, {"letter": self.letter(place), "option": text})


class Protocol(BaseModel):
    """The rules of one benchmark run.

    Args:
        version: raised whenever the rules of the benchmark in this package change.
        prompt_format: name of the system's conversation format.
        question_template: the user turn; ``{media}`` is replaced by the media tag, ``{question}`` by the question.
        templates: question type -> user turn used for that type instead; it may contain further fields of the question.
            One without ``{media}`` gives the words of the question, which stand in ``question_template``.
        stream_templates: stream -> template in the place of ``question_template``, of questions about media that
            another stream than ``stream`` reads and that are written in another way.
        wording: words of the question where neither ``templates`` nor ``choices`` give them; ``{question}`` and further
            fields of the question stand for themselves. Empty: the question.
        stream: name of the stream that reads the videos; its tag in the text is ``<stream>``.
        preprocessing: frame sampling and transform of that stream, as stored in the processor.
        reading: which frames of every video are read, in the place of those of the other rules; None: those.
        untrained_length: which number of frames that is, where the model was trained with another one; empty: with it.
        companions: name -> preprocessing of the other streams that read the same file.
        question_media: name -> preprocessing of the streams that read further media of the questions, such as boxes, or
            the pictures of those that are about no video.
        condensing: stream -> settings by which its connector condenses features, with the dtype in which they are
            compared: rounding decides which of almost equally similar ones become one.
        towers: name -> settings of a tower that are changed in this run, with the weights that it has; such as
            ``{"video": {"temporal_attention": False}}``.
        harness: whose way of asking these rules reproduce: its ``name`` and ``version``, and the source files that they
            are from; see `benchmarks.harnesses`.
        features: streams whose stored features are read instead of the file.
        without: streams that are switched off: the prompt contains nothing of them.
        layer_program: steps that drop media tokens between decoder layers, in one way of writing.
        blind: frames are black and sound is silent; gives the score of a model that neither sees nor hears.
        choices: how multiple-choice questions are asked; None: there are none.
        forced: the reference answer is given, and the answer is what the model says in the place of each of its tokens
            behind the given ones before it (teacher forcing); else the answer is generated.
        rope: rotary positions of the language model in this run, in the place of those of its config: keys of
            ``rope_parameters`` of transformers, such as ``{"rope_type": "yarn", "factor": 4.0,
            "original_max_position_embeddings": 32768}``, and ``max_position_embeddings``, the longest prompt.
        retrieval: number of pairs of a medium and a caption among which is searched: an answer is the vectors of a
            pair, by towers and text tower of a contrastive stage, and nothing is generated. 0: no retrieval.
        test_file: hash of the content of the file that a test set of one's own is; empty: the benchmark is registered.
        missing_videos: questions whose video file does not exist are not asked; they count as wrong in the strict
            score.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmark: str
    version: int = 1
    prompt_format: str
    question_template: str = f"{MEDIA}\n{QUESTION}"
    templates: dict[str, str] = Field(default_factory=dict, exclude_if=_says_nothing)
    stream_templates: dict[str, str] = Field(default_factory=dict, exclude_if=_says_nothing)
    wording: str = Field(default="", exclude_if=_says_nothing)
    stream: str = "video"
    file_lookup: FileLookup
    preprocessing: dict[str, Any] = Field(default_factory=dict)
    reading: ReadingRules | None = Field(default=None, exclude_if=_says_nothing)
    untrained_length: str = Field(default="", exclude_if=_says_nothing)
    companions: dict[str, dict[str, Any]] = Field(default_factory=dict, exclude_if=_says_nothing)
    question_media: dict[str, dict[str, Any]] = Field(default_factory=dict, exclude_if=_says_nothing)
    condensing: dict[str, dict[str, Any]] = Field(default_factory=dict, exclude_if=_says_nothing)
    towers: dict[str, dict[str, Any]] = Field(default_factory=dict, exclude_if=_says_nothing)
    harness: dict[str, str] = Field(default_factory=dict, exclude_if=_says_nothing)
    features: tuple[str, ...] = Field(default=(), exclude_if=_says_nothing)
    without: tuple[str, ...] = Field(default=(), exclude_if=_says_nothing)
    choices: ChoiceRules | None = Field(default=None, exclude_if=_says_nothing)
    forced: bool = Field(default=False, exclude_if=_says_nothing)
    rope: dict[str, Any] = Field(default_factory=dict, exclude_if=_says_nothing)
    generation: GenerationRules = GenerationRules()
    postprocessing: Literal["strip, one trailing stop string removed, strip"] = (
        "strip, one trailing stop string removed, strip"
    )
    missing_videos: Literal["excluded"] = "excluded"
    layer_program: tuple[dict[str, Any], ...] = Field(default=(), exclude_if=_says_nothing)
    blind: bool = False
    test_file: str = Field(default="", exclude_if=_says_nothing)
    retrieval: int = Field(default=0, ge=0, exclude_if=_says_nothing)

    @property
    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the record as canonical JSON."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json")).encode()).hexdigest()[:12]

    @property
    def run_name(self) -> str:
        """Name of the folder of a run with these rules: the benchmark, whose way of asking it is, whether options are
        scored by likelihood, which frames are read, and what the model was not given."""
        harness = [self.harness["name"]] if self.harness else []
        scored = ["likelihood"] if self.by_likelihood else []
        name = self.benchmark.rpartition(".")[0] if self.test_file else self.benchmark
        reading = self.reading.words if self.reading else ()
        parts = [name or self.benchmark, *harness, *scored, *reading, *(["blind"] if self.blind else [])]
        return "-".join([*parts, *(["without", *self.without] if self.without else [])])

    @property
    def by_likelihood(self) -> bool:
        """Whether an answer is the option that is most likely by the model; else its text is generated, or given."""
        return self.choices is not None and self.choices.answering != "text"

    @property
    def reads_videos(self) -> bool:
        """Whether a stream reads the file itself: not all have stored features or are switched off."""
        return not {self.stream, *self.companions} <= {*self.features, *self.without}

    def question_text(
        self,
        question: str,
        media: str | None = None,
        kind: str | None = None,
        fields: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        stream: str | None = None,
    ) -> str:
        """Returns the user turn of one question.

        Args:
            media: text that stands for the video; None: the tag of the stream.
            kind: type of the question.
            fields: further fields of the question, by their names in the template; ``options``: its options as a test
                set writes them, which stand in the prompt unless the protocol has another form of options.
            options: texts of the options of a multiple-choice question.
            stream: stream that reads its file; None: that of the protocol.
        """
        stream = stream or self.stream
        values = {"question": question, "media": f"<{stream}>" if media is None else media, **(fields or {})}
        own = None if kind is None else self.templates.get(kind)
        if own is not None and MEDIA in own:
            return _filled(own, values)
        if self.choices is not None and (options or "options" in values):  # not each question of a set need have some
            lines = self.choices.lines(options)
            written = values.get("options", lines) if self.choices.option == ChoiceRules().option else lines
            values["question"] = _filled(self.choices.wording, {**values, "options": written})
        elif own is not None or self.wording:
            values["question"] = _filled(own or self.wording, values)
        return _filled(self.stream_templates.get(stream, self.question_template), values)

    def clean(self, text: str) -> str:
        """Returns the prediction: a decoded answer without blanks around it and without one trailing stop string."""
        text = text.strip()
        for stop in self.generation.stop:
            if stop and text.endswith(stop):
                text = text[: -len(stop)]
                break
        return text.strip()

    def with_overrides(self, overrides: Mapping[str, Any], source: str) -> "Protocol":
        """Returns a copy with some rules replaced; nested mappings are merged key by key.

        Args:
            source: where the changes come from, for error messages.

        Raises:
            UserError: unknown rule (the message suggests the nearest one) or a value of the wrong type.
        """
        for key in overrides:
            _require_known(key, type(self).model_fields, source)
        for name, part in (("generation", GenerationRules), ("file_lookup", FileLookup), ("choices", ChoiceRules)):
            changes = overrides.get(name, {})
            if changes and getattr(self, name) is None:
                raise UserError(f"{source}: {name!r}: questions of {self.benchmark} have no options to choose from")
            if not isinstance(changes, Mapping):
                raise UserError(f"{source}: {name!r} takes a mapping, not {changes!r}")
            for key in changes:
                _require_known(key, part.model_fields, f"{source}: {name}")
        _require_reading(overrides.get("reading"), source)
        for name in ("templates", "stream_templates", "companions", "question_media"):
            there, changes = getattr(self, name), overrides.get(name, {})
            if not isinstance(changes, Mapping):
                raise UserError(f"{source}: {name!r} takes a mapping, not {changes!r}")
            for key in changes:
                _require_known(key, there, f"{source}: {name}")
        values = merged(self.model_dump(), overrides)
        try:
            changed = type(self).model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise UserError(f"{source}: {key} of the {self.benchmark} protocol: {first['msg']}") from None
        if changed.forced and changed.by_likelihood:
            raise UserError(f"{source}: forced: options are compared by their likelihoods; set choices.answering=text")
        return changed


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns every rule in which two records of rules differ, such as ``choices.wording``, with both values."""
    one, other = flat_rules(first), flat_rules(second)
    return {key: (one.get(key), other.get(key)) for key in {**one, **other} if one.get(key) != other.get(key)}


def flat_rules(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Returns rules inside each other by names such as "preprocessing.num_frames"."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flat_rules(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flat


def rules_in_words(rules: Mapping[str, Any]) -> str:
    """Returns changed rules as the name of a folder, such as "preprocessing.num_frames=16"; empty without any."""
    return ",".join(f"{name}={value}" for name, value in flat_rules(rules).items()).replace("/", "_")


def canonical_json(value: Any) -> str:
    """Returns JSON text with sorted keys and without blanks: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of ``base`` with some values replaced; nested mappings are merged key by key."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def _filled(template: str, values: Mapping[str, str]) -> str:
    def value(name: re.Match[str]) -> str:
        plain = name[1].removesuffix(CAPITALIZED)
        if name[1] not in values and plain in values:
            return values[plain].capitalize()
        return values.get(name[1], name[0])

    return NAMED.sub(value, template)


def _require_reading(given: Any, source: str) -> None:
    """Raise UserError for rules of reading that are no mapping, or of which one does not exist."""
    if given is not None and not isinstance(given, Mapping):
        raise UserError(f"{source}: 'reading' takes a mapping, not {given!r}")
    for key in given or ():
        _require_known(key, ReadingRules.model_fields, f"{source}: reading")


def _require_known(key: str, known: Iterable[str], source: str) -> None:
    if key not in known:
        raise UserError(f"{source}: unknown protocol rule {key!r}; {suggestion(key, known)}")
