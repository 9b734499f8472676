"""The metrics as Prometheus reads them. What is counted lies elsewhere; here it gets its names, from `segkit.telemetry.METRICS`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from segkit.telemetry import METRICS, SCALE, Histogram

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4
#: Steps of the histograms that are told: about as many as one reads, each 1.8 times the one before.
STEPS = SCALE[10::6]

#: Values of metrics by their short names and the values of their labels.
Values = Mapping[str, Mapping[tuple[str, ...], float]]
Histograms = Mapping[str, Mapping[tuple[str, str], Histogram]]


def write(values: Values, histograms: Histograms) -> bytes:
    """Write metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Families(values, histograms))
    return generate_latest(registry)


class Families(Collector):
    """What is told, as `prometheus_client` takes it."""

    def __init__(self, values: Values, histograms: Histograms) -> None:
        self._values, self._histograms = values, histograms

    def collect(self) -> Iterable[Metric]:
        """Yield one family for each metric that has a value."""
        yield from self._plain()
        yield from self._histogrammed()

    def _plain(self) -> Iterator[Metric]:
        for short, by_label in self._values.items():
            metric = METRICS[short]
            made = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = made(metric.name, metric.help, labels=metric.labels)
            for labels, value in by_label.items():
                family.add_metric(labels, value)
            yield family

    def _histogrammed(self) -> Iterator[Metric]:
        for short, by_label in self._histograms.items():
            metric = METRICS[short]
            family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
            for labels, taken in by_label.items():
                family.add_metric(labels, buckets(taken), taken.seconds)
            yield family


def buckets(taken: Histogram) -> list[tuple[str, float]]:
    """Count those within each step, and all."""
    steps = [(f"{step:.6g}", float(taken.within(step))) for step in STEPS]
    return [*steps, ("+Inf", float(taken.count))]
