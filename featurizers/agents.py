"""The Faust shell around the encoder stages: micro-batches, the model in a thread, at least once.

What Faust does by itself is not safe enough here, so this shell changes five things:

- its consumer reads uncommitted records and waits 1.5 s for a fetch: ours does neither;
- its commit stops for good at a gap near the head of a partition (transaction markers and aborted records leave gaps):
  batches are done in order here, so the newest finished offset is what is committed;
- an agent that fails is started anew, and what it had taken counts as done: here the process ends;
- its producer may reorder when it tries again: ours is idempotent, and waits for each delivery;
- its heartbeats do not name a static member, so a worker that stood still and was replaced would join again in its
  heir's name and throw it out, and so on in turns: members have no names here. One that was killed is missed after
  its session; one that stood still joins again beside its heir, and what it had in hand counts for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import aiokafka
import faust
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import KafkaConnectionError, KafkaError
from faust.transport.drivers import aiokafka as driver
from yarl import URL

from featurizers.errors import EncodingError
from streams.errors import BrokerError, UnreachableError
from streams.kafka import MAX_RECORD_BYTES, partition_counts, wait_for_broker
from streams.observing import Observer, Silent
from streams.records.outside import Progress
from streams.stage import Message, Output, Stage, StageSpec

_ENVELOPE = 64 * 1024  # a record's batch is a little larger than its value
_FINISH_TIMEOUT_S, _STOP_TIMEOUT_S = 4.0, 4.0  # a broker may be out of reach
_LAG_EACH_S = 1.0


@dataclass(frozen=True)
class AgentConfig:
    """How an encoder worker runs on Kafka."""

    bootstrap: str
    partitions: int
    max_records: int = 16  # of one micro-batch, of any partitions
    within_ms: int = 20  # that a micro-batch waits to be filled
    fetch_wait_ms: int = 50
    commit_interval_ms: int = 200
    session_timeout_ms: int = 6_000
    max_record_bytes: int = MAX_RECORD_BYTES


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    def _create_worker_consumer(self, transport: Any) -> Any:
        config: AgentConfig = self.app.agent_config
        self._assignor = RoundRobinPartitionAssignor
        return aiokafka.AIOKafkaConsumer(
            bootstrap_servers=config.bootstrap.split(","),
            client_id=self.app.conf.id,
            group_id=self.app.conf.id,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy=[self._assignor],
            fetch_max_wait_ms=config.fetch_wait_ms,
            max_poll_records=config.max_records,
            max_partition_fetch_bytes=config.max_record_bytes + _ENVELOPE,
            session_timeout_ms=config.session_timeout_ms,
            heartbeat_interval_ms=config.session_timeout_ms // 6,
            rebalance_timeout_ms=config.session_timeout_ms * 2,
            # A micro-batch may take long on a slow machine: that is no reason to lose its partitions.
            max_poll_interval_ms=600_000,
        )


class _Consumer(driver.Consumer):  # type: ignore[misc]
    """Commits what this shell has finished, whatever Faust counted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._finished: dict[Any, int] = {}  # next offset by partition

    def finish(self, event: Any) -> None:
        """Everything up to this event is delivered."""
        message = event.message
        self._finished[message.tp] = message.offset + 1
        event.ack()

    def left(self) -> dict[tuple[str, int], int]:
        """Offsets of each assigned partition that are not finished, as far as is known."""
        left = {}
        for tp in self.assignment():
            try:
                end = self.highwater(tp) or 0
            except (AssertionError, AttributeError):
                continue  # a rebalance, in the consumer's own thread, has just taken it
            left[tp.topic, tp.partition] = max(end - self._finished.get(tp, self._committed_offset[tp] or 0), 0)
        return left

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        await super().on_partitions_revoked(revoked)
        for partition in revoked:
            self._finished.pop(partition, None)

    def _new_consumer_thread(self) -> Any:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def _new_offset(self, tp: Any) -> int | None:
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        return self._finished.get(tp)

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Gaps do not matter to `_new_offset`, and a long one would cost memory."""

    async def create_topic(self, *_: Any, **__: Any) -> None:
        """Topics are made by `trendstream topics create` alone."""


class _Producer(driver.Producer):  # type: ignore[misc]
    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}

    async def create_topic(self, *_: Any, **__: Any) -> None:
        """Topics are made by `trendstream topics create` alone."""


class _Transport(driver.Transport):  # type: ignore[misc]
    Consumer = _Consumer
    Producer = _Producer


class EncoderApp(faust.App):  # type: ignore[misc]
    """A Faust app of one agent that runs one stage; see `run_encoder`."""

    def __init__(self, spec: StageSpec, config: AgentConfig, datadir: str, observer: Observer | None = None) -> None:
        self.agent_config = config
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._spec = spec
        self._observer = observer or Silent()
        self._stages: dict[tuple[str, int], Stage] = {}
        self._owned: list[tuple[str, int]] = []
        self._busy = asyncio.Lock()
        self._ending = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=spec.name)
        group = f"trendstream.{spec.name}"
        super().__init__(
            group,
            broker=[URL(f"kafka://{address}") for address in config.bootstrap.split(",")],
            datadir=datadir,
            store="memory://",
            autodiscover=False,
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            key_serializer="raw",
            value_serializer="raw",
            stream_buffer_maxsize=config.max_records,
            stream_wait_empty=False,
            broker_commit_interval=config.commit_interval_ms / 1000,
            broker_session_timeout=config.session_timeout_ms / 1000,
            producer_max_request_size=config.max_record_bytes + _ENVELOPE,
        )
        source = self.topic(*spec.inputs, key_type=bytes, value_type=bytes, internal=False)
        self.agent(source, name=spec.name)(self._run)

    async def finish(self) -> None:
        """Let the micro-batch in hand be delivered, and take no other."""
        self._ending = True
        async with self._busy:
            pass

    def _new_transport(self) -> Any:
        return _Transport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> Any:
        return _Transport(self.conf.broker_producer, self)

    async def _run(self, stream: Any) -> None:
        within = self.agent_config.within_ms / 1000
        async for events in stream.noack_take(self.agent_config.max_records, within=within):
            try:
                async with self._busy:
                    if not self._ending:
                        await self._encode(events)
                        continue
            except Exception as error:
                if not self.failed.done():
                    self.failed.set_exception(error)
            # Leaving the loop would let Faust acknowledge what comes next.
            await asyncio.Event().wait()

    async def _encode(self, events: Sequence[Any]) -> None:
        """Partition by partition: fold, deliver in order, and only then acknowledge."""
        by_partition: dict[tuple[str, int], list[Any]] = {}
        for event in events:
            # Taken before a rebalance: whoever has the partition now reads it again from the commit.
            if event.message.generation_id == self.consumer_generation_id:
                by_partition.setdefault((event.message.topic, event.message.partition), []).append(event)
        for task, mine in by_partition.items():
            began = time.monotonic()
            if task not in self._stages:
                self._stages[task] = self._spec.make(task)
            messages = [_message(event.message) for event in mine]
            fold = functools.partial(self._stages[task].fold, messages)
            outputs = await asyncio.get_running_loop().run_in_executor(self._thread, fold)
            for output in outputs:
                await self._deliver(output)
            if mine[-1].message.generation_id == self.consumer_generation_id:
                for event in mine:
                    self.consumer.finish(event)
            self._tell(task, mine[-1].message, len(mine), len(outputs), time.monotonic() - began)

    def _tell(self, task: tuple[str, int], newest: Any, records: int, outputs: int, seconds: float) -> None:
        name, counters = self._spec.name, self._stages[task].counters()
        position = newest.offset + 1
        self._observer.committed(name, records, outputs, seconds)
        self._observer.progressed(
            Progress(stage=name, topic=task[0], partition=task[1], offset=position, counters=counters),
            time.time() - newest.timestamp,
        )

    def tell_lag(self) -> None:
        """What waits, also while the model works or stands still; and first whose it is, where that has changed."""
        left = self.consumer.left()
        if sorted(left) != self._owned:
            self._owned = sorted(left)
            self._observer.assigned(self._spec.name, self._owned)
        for task, offsets in left.items():
            self._observer.lagging(self._spec.name, task, offsets)

    async def _deliver(self, output: Output) -> None:
        try:
            await self.producer.send_and_wait(
                output.topic, output.key, output.value, output.partition, timestamp=None, headers=None
            )
        except (KafkaError, faust.exceptions.FaustError) as error:
            size = len(output.value or b"")
            raise BrokerError(
                f"{self._spec.name}: a record of {size} bytes could not be delivered to "
                f"{output.topic}/{output.partition}: {error}"
            ) from error


def run_encoder(
    spec: StageSpec, config: AgentConfig, stop: Callable[[], bool], observer: Observer | None = None
) -> None:
    """Runs an encoder stage on Kafka until `stop()`; then what is in hand is delivered and committed.

    Waits for a broker. Raises BrokerError if the topics are not there, EncodingError if anything else went wrong; what
    was not delivered by then is not acknowledged, and is encoded again after a restart.
    """
    observer = observer or Silent()
    while not stop():
        try:
            wait_for_broker(config.bootstrap, stop, lambda said: observer.warned(spec.name, said))
            _require_topics(spec, config)
            asyncio.run(_serve(spec, config, stop, observer))
        except (KafkaConnectionError, UnreachableError) as error:  # it went away before all was set up
            observer.warned(spec.name, f"{error}; trying again")
        else:
            return


async def _serve(spec: StageSpec, config: AgentConfig, stop: Callable[[], bool], observer: Observer) -> None:
    with tempfile.TemporaryDirectory(prefix="trendstream-") as folder:
        app = EncoderApp(spec, config, folder, observer)
        async with _running(app):
            told = 0.0
            while not (stop() or app.failed.done() or app.crashed or app.should_stop):
                await asyncio.wait([app.failed], timeout=0.05)
                if time.monotonic() - told > _LAG_EACH_S:
                    app.tell_lag()
                    told = time.monotonic()
            if not (app.failed.done() or app.crashed):
                with contextlib.suppress(asyncio.TimeoutError):  # what is not acknowledged comes again
                    await asyncio.wait_for(app.finish(), _FINISH_TIMEOUT_S)
    error = app.failed.exception() if app.failed.done() else app.crash_reason
    if isinstance(error, BrokerError):
        raise error
    if error is not None:
        raise EncodingError(f"{spec.name}: {type(error).__name__}: {error}; nothing of it was acknowledged") from error


@contextlib.asynccontextmanager
async def _running(app: EncoderApp) -> AsyncIterator[None]:
    try:
        await app.start()
        yield
    finally:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(app.stop(), _STOP_TIMEOUT_S)


def _message(message: Any) -> Message:
    return Message(
        message.topic,
        message.partition,
        message.offset,
        round(message.timestamp * 1000),
        message.key,
        message.value,
    )


def _require_topics(spec: StageSpec, config: AgentConfig) -> None:
    counts = partition_counts(config.bootstrap)
    for topic in (*spec.inputs, "trend.events", "trend.dlq"):
        if topic not in counts:
            raise BrokerError(f"topic {topic} does not exist; `trendstream topics create` makes it")
        if counts[topic] != config.partitions:
            raise BrokerError(
                f"topic {topic} has {counts[topic]} partitions, and {config.partitions} are configured: the encoders "
                "write to the partition that they read from; set the same number"
            )
