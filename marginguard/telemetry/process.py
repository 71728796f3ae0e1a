"""Memory and CPU time of the process itself, under Prometheus' customary names.

The library's collector needs /proc/stat, which the unit's ProcSubset=pid hides.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_STATM: Final = Path("/proc/self/statm")


class ProcessCollector(Collector):
    """Reads the figures when they are asked for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield the figures; without the memory where /proc cannot be read."""
        yield CounterMetricFamily(
            "process_cpu_seconds", "User and system CPU time.", value=time.process_time()
        )
        try:
            resident_pages = int(_STATM.read_text().split()[1])
        except (OSError, ValueError, IndexError):
            return
        yield GaugeMetricFamily(
            "process_resident_memory_bytes",
            "Resident memory.",
            value=resident_pages * os.sysconf("SC_PAGESIZE"),
        )
