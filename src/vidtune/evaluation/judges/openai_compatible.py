"""A chat model as judge, behind any endpoint with the OpenAI chat API.

Every reply is kept in an append-only cache, readable or not; a very long one is cut off. A reply with a usable verdict
is never paid for twice; one without is read again whenever the same text is judged, in case the rules of reading have
improved.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.judges.address import OPENAI_URL, api_address, api_key, is_model_name, key_variable, shown
from vidtune.evaluation.judges.asking import AskedJudge, Round, run_to_end
from vidtune.evaluation.judges.base import (
    HASH_LETTERS,
    LENIENT_ENDING,
    ExpectedUsage,
    Judge,
    JudgeItem,
    Judgement,
    Usage,
    is_file_name,
    require_file_name,
)
from vidtune.evaluation.judges.limits import DEFAULT_LIMITS, Limits, Prices
from vidtune.evaluation.judges.prompts import CHARACTERS_PER_TOKEN, OR, VIDEO_QA, JudgePrompt, prompt_of
from vidtune.evaluation.judges.replies import LENIENT, STRICT, UnparsableReply
from vidtune.evaluation.protocol import canonical_json
from vidtune.machine.records import RecordWriter, read_records

LONGEST_NAME = 80


class OpenAICompatibleJudge(Judge):
    """Asks a chat model for what the prompts say, such as yes or no and a score.

    Items with the same question, reference and prediction are asked once.

    Args:
        model: name of the model at the endpoint.
        base_url: address of the API; None: OpenAI's.
        api_key_env: environment variable that holds the key. None: ``OPENAI_API_KEY`` for OpenAI itself, no key for any
            other address. The key itself is never stored.
        parameters: sampling parameters to send; None: as published, those of the prompts, or the endpoint chooses them.
        prompt: for items that name no prompt of their own.
        cache: file of known replies, shared between runs; None: replies are not kept.
        prices: needed to compute a cost, and for ``limits.max_cost``; `prices.table.prices_of` knows some.
        replies: "strict": as the published scripts read them; "lenient": also what they cannot read, where its meaning
            is certain (`judges.wild_text`).
        name: name of this judge in scores; None: the model's name, with a hash when anything but the model differs from
            the published setting, and ``-lenient`` for lenient replies.

    Attributes:
        spent: cost of all that it was asked, which ``limits.max_cost`` limits; set it to count what earlier sessions
            cost too.
    """

    def __init__(
        self,
        model: str = "gpt-3.5-turbo",
        *,
        base_url: str | None = None,
        api_key_env: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        prompt: JudgePrompt = VIDEO_QA,
        cache: Path | None = None,
        limits: Limits = DEFAULT_LIMITS,
        prices: Prices | None = None,
        replies: str = STRICT,
        name: str | None = None,
    ) -> None:
        if not is_model_name(model):
            raise UserError(f"model {model!r}: expected the name of a chat model")
        self.model = model
        self.base_url = (base_url or OPENAI_URL).rstrip("/")
        address = api_address(self.base_url, "judge")
        if limits.max_cost is not None and prices is None:
            raise UserError("a cost limit needs the prices per million tokens; give both")
        if replies not in (STRICT, LENIENT):
            raise UserError(f"replies {replies!r}: expected {STRICT} or {LENIENT}")
        self.api_key_env = api_key_env or key_variable(self.base_url)
        self.parameters = dict(parameters or {})
        self.prompt = prompt
        self.cache = cache
        self.limits = limits
        self.prices = prices
        self.spent = 0.0
        self.identity = {
            "kind": "openai-compatible",
            "model": model,
            "base_url": shown(address),
            "prompt": prompt.name,
            "parameters": self.parameters,
        }
        name = name or self._default_name() + (LENIENT_ENDING if replies == LENIENT else "")
        self.lenient = replies == LENIENT
        if self.lenient:
            self.identity["replies"] = replies
        self.name = require_file_name(name)

    def _default_name(self) -> str:
        readable = "".join(
            letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in self.model
        )
        readable = readable if is_file_name(readable) else readable.strip("-._")[:LONGEST_NAME] or "model"
        published = {"base_url": OPENAI_URL, "prompt": VIDEO_QA.name, "parameters": {}}
        if all(self.identity[key] == value for key, value in published.items()) and readable == self.model:
            return readable
        settings = hashlib.sha256(canonical_json(self.identity).encode()).hexdigest()[:HASH_LETTERS]
        return f"{readable.strip('-._')}-{settings}"

    def estimate(self, items: Sequence[JudgeItem]) -> ExpectedUsage:
        """Returns requests and tokens if no request is repeated; four characters count as a token."""
        items = [item for item in items if _unsendable(item) is None]
        waiting = {self._key(item): item for item in items}
        known = self._known_replies(waiting)
        unknown = [(prompt_of(item, self.prompt), item) for key, item in waiting.items() if key not in known]
        characters = sum(len(message["content"]) for prompt, item in unknown for message in prompt.messages(item))
        prompt_tokens = characters // CHARACTERS_PER_TOKEN
        completion_tokens = sum(prompt.reply_tokens for prompt, _ in unknown)
        return ExpectedUsage(
            calls=len(unknown),
            cached=len(items) - len(unknown),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cost=self.prices.cost(prompt_tokens, completion_tokens) if self.prices else None,
            currency=self.prices.currency if self.prices else "",
        )

    def judge(self, items: Sequence[JudgeItem], done: Callable[[Judgement], None]) -> Usage:
        """Judge all items.

        Raises:
            JudgingStoppedError: the key is refused, the model is unknown, requests keep failing, or a limit is reached
                on the way.
            UserError: the limits do not allow it, or the key is missing or cannot be sent.
        """
        self.usage = None
        self._require_within_limits(self.estimate(items))
        key = api_key(self.api_key_env, f"the judge {self.name}")
        waiting: dict[str, list[JudgeItem]] = {}
        for item in items:
            if reason := _unsendable(item):
                done(Judgement(item, error=reason))
            else:
                waiting.setdefault(self._key(item), []).append(item)
        endpoint = AskedJudge(
            self.name,
            self.base_url,
            self.identity["base_url"],
            key,
            self.model,
            self.parameters,
            self.prompt,
            self.lenient,
        )
        with ExitStack() as stack:
            cache = stack.enter_context(RecordWriter(self.cache, shared=True)) if self.cache else None
            asked = Round(endpoint, self.limits, self.prices, self.spent, cache, done)
            self.usage = asked.usage
            known = self._known_replies({key: same[0] for key, same in waiting.items()})
            try:
                return run_to_end(lambda: asked.run(waiting, known))
            finally:
                self.spent += asked.usage.spent

    def _require_within_limits(self, estimate: ExpectedUsage) -> None:
        limits = self.limits
        if limits.max_calls is not None and estimate.calls > limits.max_calls:
            raise UserError(
                f"judging takes {estimate.calls} requests, the limit is {limits.max_calls}; raise the limit to go on"
            )

    def _key(self, item: JudgeItem) -> str:
        """Hash of everything the reply depends on."""
        prompt = prompt_of(item, self.prompt)
        parameters = {**prompt.parameters, **self.parameters}
        request = [self.identity["base_url"], self.model, prompt.messages(item), parameters]
        return hashlib.sha256(canonical_json(request).encode()).hexdigest()

    def _known_replies(self, waiting: Mapping[str, JudgeItem]) -> dict[str, str]:
        """The replies in the cache that have a usable verdict, by key.

        Args:
            waiting: key of a request -> an item that it answers.
        """
        known = {}
        for record in read_records(self.cache, skip_broken=True) if self.cache else ():
            with suppress(UnparsableReply, KeyError, TypeError):
                form = prompt_of(waiting[record["key"]], self.prompt).form
                if form.counts(form.reading(record["reply"], self.lenient)[0]):
                    known[record["key"]] = record["reply"]
        return known


def _unsendable(item: JudgeItem) -> str | None:
    """Why no request can hold this item; None: one can."""
    second = zip(("second question", "second prediction"), item.second or (), strict=False)
    texts = (("question", item.question), ("answer", OR.join(item.answers)), ("prediction", item.pred), *second)
    texts = (*texts, *item.texts.items())
    for what, text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            return f"the {what} holds half of a character (a lone surrogate), which cannot be sent"
    return None
