"""Counters and histograms under the names that dashboards of llama-server and vLLM ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

LATENCIES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 640, 2560)
BETWEEN = (0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2.5, 5, 10)
TOKENS = (1, 8, 32, 128, 512, 1024, 2048, 4096, 8192, 16384, 32768, 131072)

Gauges = Callable[[], Iterable[tuple[str, dict[str, float]]]]
"""For each model that is loaded its name and what is measured of it now, by the names of GAUGES and COUNTERS."""

GAUGES = {
    "running": (("vllm:num_requests_running", "llamacpp:requests_processing"), "Requests that are computed."),
    "waiting": (("vllm:num_requests_waiting", "llamacpp:requests_deferred"), "Requests that wait for memory."),
    "cache": (
        ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "llamacpp:kv_cache_usage_ratio"),
        "Share of the cache's memory in use, kept prefixes included.",
    ),
    "cache_bytes": (("ggq:cache_bytes",), "Bytes of the cache in use, kept prefixes included."),
    "kept": (("ggq:prefixes_kept",), "Sequences that ended and are kept for prompts that begin alike."),
}
COUNTERS = {
    "preempted": (("vllm:num_preemptions",), "Requests that gave their memory to others and were computed anew."),
    "queries": (("vllm:prefix_cache_queries",), "Tokens of prompts."),
    "hits": (("vllm:prefix_cache_hits",), "Tokens of prompts that had been computed for others."),
    "steps": (("llamacpp:n_decode",), "Steps of the engine."),
}


class Metrics:
    """The metrics of one server, in a registry of their own.

    Args:
        gauges: Asked at each scrape.
    """

    def __init__(self, gauges: Gauges) -> None:
        self.registry = CollectorRegistry()
        self._gauges = gauges
        self.registry.register(self)
        counter, histogram = self._counter, self._histogram
        self.prompt_tokens = counter("vllm:prompt_tokens", "Tokens of prompts.")
        self.generation_tokens = counter("vllm:generation_tokens", "Tokens of answers.")
        self.prompt_tokens_2 = counter("llamacpp:prompt_tokens", "Tokens of prompts that were computed.")
        self.generation_tokens_2 = counter("llamacpp:tokens_predicted", "Tokens of answers.")
        self.prompt_seconds = counter("llamacpp:prompt_seconds", "Seconds of steps that computed prompts.")
        self.generation_seconds = counter("llamacpp:tokens_predicted_seconds", "Seconds of steps behind prompts.")
        self.finished = counter("vllm:request_success", "Answers that ended.", ("finished_reason",))
        self.answers = counter("ggq:http_answers", "Answers by status.", ("status",), model=False)
        self.first = histogram("vllm:time_to_first_token_seconds", "From the request to its first token.", LATENCIES)
        self.between = histogram("vllm:inter_token_latency_seconds", "Between two tokens.", BETWEEN)
        self.between_2 = histogram("vllm:time_per_output_token_seconds", "The same by its older name.", BETWEEN)
        self.whole = histogram("vllm:e2e_request_latency_seconds", "From the request to its end.", LATENCIES)
        self.queue = histogram("vllm:request_queue_time_seconds", "Until a request began to be computed.", LATENCIES)
        self.prompt_size = histogram("vllm:request_prompt_tokens", "Tokens of a prompt.", TOKENS)
        self.answer_size = histogram("vllm:request_generation_tokens", "Tokens of an answer.", TOKENS)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = (), model: bool = True) -> Counter:
        return Counter(name, text, ("model_name",) * model + labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ("model_name",), registry=self.registry, buckets=buckets)

    def collect(self) -> Iterable[Metric]:
        """What is measured at the moment, for the registry."""
        now = list(self._gauges())
        for table, family in ((GAUGES, GaugeMetricFamily), (COUNTERS, CounterMetricFamily)):
            for key, (names, text) in table.items():
                for name in names:
                    metric = family(name, text, labels=["model_name"])
                    for model, values in now:
                        metric.add_metric([model], values[key])
                    yield metric

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)
