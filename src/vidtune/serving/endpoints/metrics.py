"""Metrics in the form of Prometheus: requests, times, tokens, and the work that was done or saved."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from vidtune.generation.asking import Progress
from vidtune.serving.limits import Places
from vidtune.serving.problems import ApiProblem
from vidtune.serving.served import ServedModel

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counts of one server.

    Args:
        models: whose engines are asked when the metrics are read.
        places: whose requests are counted.
    """

    def __init__(self, models: Sequence[ServedModel], places: Places) -> None:
        self._registry = CollectorRegistry()
        self._models, self._places = models, places
        self.requests = self._counter("requests", "Requests by outcome.", "model", "outcome")
        self.problems = self._counter("problems", "Requests that got an error, by status.", "status")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts, media included.", "model")
        self.seconds = self._histogram("request_seconds", "Seconds of requests.")
        self.first = self._histogram("first_token_seconds", "Seconds from the engine's queue to the first news.")
        self._registry.register(self)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"vidtune_{name}", what, labelnames=labels, registry=self._registry)

    def _histogram(self, name: str, what: str) -> Histogram:
        return Histogram(f"vidtune_{name}", what, labelnames=["model"], buckets=_SECONDS, registry=self._registry)

    @contextmanager
    def answering(self, model: str) -> Iterator[None]:
        """Count one request, its outcome and time."""
        began, outcome = time.monotonic(), "gone"
        try:
            yield
            outcome = "answered"
        except ApiProblem as problem:
            outcome = str(problem.status)
            raise
        except Exception:
            outcome = "500"
            raise
        finally:
            self.requests.labels(model, outcome).inc()
            self.seconds.labels(model).observe(time.monotonic() - began)

    def count(self, model: str, news: Progress, began: float) -> float:
        """Count the news of a question that began then; returns infinity, which is not counted again."""
        if began != float("inf"):
            self.first.labels(model).observe(time.monotonic() - began)
            self.prompt_tokens.labels(model).inc(len(news.question.prompt.ids))
        return float("inf")

    def collect(self) -> Iterable[Metric]:
        """What Prometheus reads beside the counts of requests: the work and the memory of every engine."""
        counts = {
            "media_loaded": "Media that were read.",
            "encodings": "Media that went through a tower.",
            "prefills": "Prefixes that the language model read.",
            "questions": "Answers that were finished.",
            "new_tokens": "Tokens of finished answers.",
        }
        for name, what in counts.items():
            family = CounterMetricFamily(f"vidtune_{name}", what, labels=["model"])
            for model in self._models:
                family.add_metric([model.name], getattr(model.engine.stats, name))
            yield family
        gauges = {
            "running": ("Answers in the batch.", lambda model: model.engine.running),
            "waiting": ("Questions that wait for a place in the batch.", lambda model: model.engine.waiting),
            "kept_bytes": (
                "Bytes kept of media.",
                lambda model: model.engine.prefixes.used + model.engine.encodings.used,
            ),
        }
        for name, (what, value) in gauges.items():
            gauge = GaugeMetricFamily(f"vidtune_{name}", what, labels=["model"])
            for model in self._models:
                gauge.add_metric([model.name], value(model))
            yield gauge
        yield GaugeMetricFamily("vidtune_requests_in_flight", "Requests that have a place.", value=self._places.taken)

    def text(self) -> bytes:
        """The metrics as text."""
        return generate_latest(self._registry)
