"""What a gateway exports of its records."""

import asyncio

from serve.gateway.gateway import Gateway
from serve.gateway.metrics import RecordMetrics
from tests.unit.serve.samples import asked


class Instrument:
    """A gauge or a counter."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def set(self, value: float) -> None:
        self.values.append(value)

    inc = set


def test_a_counter_gets_what_was_lost_since():
    metrics = RecordMetrics(Instrument(), Instrument())
    for num_waiting, num_lost in ((0, 0), (7, 2), (3, 2), (0, 5)):
        metrics.write(num_waiting, num_lost)
    assert metrics.waiting.values == [0, 7, 3, 0]
    assert metrics.lost.values == [2, 3]


async def test_a_gateway_reports_what_waits_and_what_is_lost(config, store, engines):
    reported = []
    gateway = Gateway(config, store, engines, lambda *numbers: reported.append(numbers))
    async with gateway.background_refresh(), asyncio.timeout(60):
        with store.database.writer.begin():
            recording = asyncio.create_task(gateway.recorder.record(asked()))
            gateway.recorder.lost = 3
            while (1, 3) not in reported:
                await asyncio.sleep(0.01)
        await recording
        while (0, 3) not in reported:
            await asyncio.sleep(0.01)
