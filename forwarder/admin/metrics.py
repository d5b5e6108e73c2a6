"""The numbers of the daemon in Prometheus' text format, by way of OpenTelemetry's instruments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from forwarder.admin.register import REGISTER, Definition, Kind
from forwarder.admin.samples import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackOptions, Meter

__all__ = ["CONTENT_TYPE", "Exposition", "Sample"]

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4


class Exposition:
    """Every metric of the register, on instruments and a registry of its own.

    Not safe for use by several threads: a scrape is a few hundred lines of text, made at once from
    one sample, so that all its numbers agree.
    """

    def __init__(self) -> None:
        self._sample: Sample | None = None
        self._registry = CollectorRegistry()
        reader = PrometheusMetricReader(
            disable_target_info=True, scope_info_enabled=False, registry=self._registry
        )
        # An empty resource: the environment has no say in what an operator's rules rely on.
        self._provider = MeterProvider([reader], Resource.get_empty(), shutdown_on_exit=False)
        meter = self._provider.get_meter("sandbox_forwarder")
        for definition in REGISTER:
            self._instrument(meter, definition)

    def render(self, sample: Sample) -> bytes:
        """The text of one scrape."""
        self._sample = sample
        try:
            return generate_latest(self._registry)
        finally:
            self._sample = None

    def close(self) -> None:
        """Let go of the instruments."""
        self._provider.shutdown()

    def _instrument(self, meter: Meter, definition: Definition) -> None:
        callbacks = [self._observer(definition)]
        help_text = f"{definition.meaning} {definition.advice}".strip()
        match definition.kind:
            case Kind.COUNTER:
                # The exporter puts the suffix back.
                name = definition.name.removesuffix("_total")
                meter.create_observable_counter(name, callbacks, description=help_text)
            case Kind.GAUGE:
                meter.create_observable_gauge(definition.name, callbacks, description=help_text)
            case unknown:
                assert_never(unknown)

    def _observer(
        self, definition: Definition
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            if self._sample is None:
                return []
            rows = definition.read(self._sample)
            return [
                Observation(value, dict(zip(definition.labels, labels, strict=True)))
                for value, *labels in rows
            ]

        return observe
