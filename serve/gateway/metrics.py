"""Metrics that a gateway exports through Ray: `<name>` here is `ray_<name>` on every node's metrics endpoint."""

from __future__ import annotations

from dataclasses import dataclass, field

from ray.serve.metrics import Counter, Gauge


def waiting_gauge() -> Gauge:
    return Gauge("rlhf_store_records_waiting", "Records of requests and exposures that wait for the store")


def lost_counter() -> Counter:
    return Counter("rlhf_store_records_lost_total", "Records that the store did not take, or that found the queue full")


@dataclass(slots=True)
class RecordMetrics:
    """Serve adds the tags `application`, `deployment` and `replica`."""

    waiting: Gauge = field(default_factory=waiting_gauge)
    lost: Counter = field(default_factory=lost_counter)
    counted: int = 0
    """Lost records that the counter knows."""

    def write(self, num_waiting: int, num_lost: int) -> None:
        """Export the counts of one gateway since it started."""
        self.waiting.set(num_waiting)
        if num_lost > self.counted:
            self.lost.inc(num_lost - self.counted)
            self.counted = num_lost
