"""A stage on Kafka: consume, fold, and commit outputs, offsets and snapshot manifests in one transaction.

The order of a commit is written once, in `Runner._commit`. Any abort throws away the state of every owned partition and
restores it: state is never ahead of its offsets. A fatal error (a fenced zombie) ends the process; an error that passes
(a new leader) is worth another try, for as long as `RunnerConfig.patience_ms` says; a broker out of reach is waited
for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import lt
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from streams import kafka
from streams.codecs import encode_json
from streams.errors import BrokerError, MemoryLimitError, UnreachableError
from streams.kafka_errors import ABORTED_BY_THE_NEXT, PASSING, ending, is_fatal
from streams.memory import resident_mib
from streams.observing import Observer, Silent
from streams.patience import Patience
from streams.poison import Guard
from streams.records.outside import Progress, SnapshotManifest
from streams.restore import PROGRESS, EndedError, Restored, Restorer, progress_key
from streams.snapshots import Upload, drop, ladder
from streams.stage import Clock, Message, Output, Stage, StageSpec, TaskKey, TaskStatus, frozen, reported
from streams.topics import PLATFORM_TOPICS, TOPICS
from streams.versioned import VersionedReader


@dataclass(frozen=True)
class RunnerConfig:
    bootstrap: str
    partitions: int
    slot: int = 0  # static: the transactional id and the member id are made of stage and slot
    commit_interval_ms: int = 100
    control_interval_ms: int = 100
    snapshot_interval_ms: int = 30_000
    snapshot_slice_ms: int = 50  # of a commit, for sending a snapshot that is on its way
    transaction_timeout_ms: int = 10_000
    max_poll: int = 2_000  # records of one poll
    patience_ms: int = 120_000  # with errors that pass, before the process ends
    memory_limit_mib: int = 0  # beyond which the process ends; 0: none


@dataclass
class _Task:
    """One owned input partition."""

    stage: Stage
    position: int  # next input offset that the state does not hold
    last_input_at: int
    newest_at: int = 0  # record time of the newest record folded since the last commit; 0: none
    caught_up: bool = False
    dirty: bool = False  # folded since the last commit
    waiting: deque[Message] = field(default_factory=deque)  # held back until `ready`
    waiting_since: float = 0.0
    manifests: list[SnapshotManifest] = field(default_factory=list)
    snapshot: SnapshotManifest | None = None  # the newest
    snapshot_due: float = 0.0  # monotonic seconds
    upload: Upload | None = None  # a snapshot on its way


class Runner:
    """Runs one stage until told to stop. One thread; everything happens in `run`, turn by turn."""

    restorer: type[Restorer] = Restorer

    def __init__(
        self,
        spec: StageSpec,
        config: RunnerConfig,
        stop: Callable[[], bool],
        observer: Observer | None = None,
    ) -> None:
        self._spec = spec
        self._config = config
        self._stop = stop
        self._observer: Observer = observer or Silent()
        self._tasks: dict[TaskKey, _Task] = {}
        self._paused: set[TaskKey] = set()
        self._guard = Guard(spec.name, self._observer)
        self._restorer = self.restorer(
            spec, config.bootstrap, config.partitions, self._guard, self._observer, stop, config.max_poll
        )
        self._clock: Clock | None = spec.clock() if spec.clock else None
        self._in_transaction = False
        self._abort_due = ""  # why the open transaction has to go
        self._restore_due: list[TaskKey] | None = None  # tasks that are ours, and have no state yet
        self._fatal: KafkaException | None = None  # raised in a callback
        self._patience = Patience(config.patience_ms, stop)
        self._records = self._outputs = 0
        self._last_commit = self._last_tick = self._last_measured = 0.0
        self._slice = config.snapshot_slice_ms / 1000
        name = f"trendstream.{spec.name}"
        self._consumer = kafka.consumer(config.bootstrap, name, f"{name}.{config.slot}")
        self._producer = self._new_producer()
        self._chunks = kafka.producer(config.bootstrap) if spec.stateful else None
        self._versioned = VersionedReader(config.bootstrap, f"{name}.versioned", spec.versioned, stop)

    # -- life ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Blocks until `stop()`; raises BrokerError on an error that this process cannot mend, PoisonError on a record
        that the stage cannot fold, SnapshotError where its state cannot be made again, MemoryLimitError where it has
        grown beyond its limit."""
        for _ in self.turns():
            pass

    def turns(self) -> Iterator[None]:
        """`run`, one step at a time: the simulation of schedules decides what happens between two of them."""
        try:
            self._start()
            self._consumer.subscribe(list(self._spec.inputs), on_assign=self._assign, on_revoke=self._revoke)
            while not self._stop():
                self._step()
                yield
            self._finish()
        except EndedError:
            pass  # told to stop in the middle of a restore: there is nothing to commit
        except KafkaException as error:
            if self._patience.is_ending() and self._patience.passes(error.args[0], self._in_transaction):
                self._observer.aborted(self._spec.name, error.args[0].str())
                return
            raise BrokerError(f"{self._spec.name}: {ending(error.args[0], self._config.slot)}") from error
        finally:
            self._tasks.clear()  # closing revokes, and that would commit: never what a failed step has left half done
            self._abort_due = self._abort_due or "the worker ends"
            self._consumer.close()
            self._versioned.close()

    def _start(self) -> None:
        """Until the broker has answered all that is asked before the first poll, or `stop()`."""
        while not self._stop():
            try:
                counts = kafka.partition_counts(self._config.bootstrap)
                missing = [t for t in (*self._spec.inputs, *self._spec.versioned) if t not in counts]
                if missing:
                    raise BrokerError(f"topics {missing} do not exist; `trendstream topics create` makes them")
                self._require_known([(topic, counts[topic] - 1) for topic in self._spec.inputs])
                self._versioned.start(counts)
                self._patience.ask(self._producer.init_transactions)
                return
            except KafkaException as error:
                if not self._patience.passes(error.args[0], self._in_transaction):
                    raise
                reason = error.args[0].str()
            except UnreachableError as error:
                reason = str(error)
            self._observer.warned(self._spec.name, f"{reason}; trying again in {self._patience.pause_s:g} s")
            self._patience.pause()

    def _step(self) -> None:
        try:
            self._versioned.poll()
            polled = self._poll()
            self._mend()
            # Where no more comes at once, others wait for what is done: say it now.
            due = self._release() or not polled or self._until_commit() <= 0
            self._tick(due)
            if due:
                self._commit(snapshots=True)
            self._measure()
            self._patience.renew()
        except KafkaException as error:
            cause = error.args[0]
            if not self._patience.passes(cause, self._in_transaction):
                raise
            self._reset(cause.str())
        except UnreachableError as error:
            self._reset(str(error))

    def _measure(self) -> None:
        """Tell how much is left to read, and refuse to grow beyond the limit. What is not committed yet is folded again
        by whoever comes next."""
        if time.monotonic() - self._last_measured < _MEASURED_EACH_S:
            return
        self._last_measured = time.monotonic()
        for key, task in self._tasks.items():
            end = self._consumer.get_watermark_offsets(TopicPartition(*key), cached=True)[1]
            self._observer.lagging(self._spec.name, key, 0 if task.caught_up else max(end - task.position, 0))
        limit = self._config.memory_limit_mib
        if not limit:
            return
        taken = resident_mib()
        if taken > limit:
            held = {f"{topic}/{p}": task.stage.counters() for (topic, p), task in self._tasks.items()}
            products = sum(counters.get("products", 0) for counters in held.values())
            of = f" for {products:,} products" if products else ""
            raise MemoryLimitError(
                f"{self._spec.name}: {taken:,.0f} MiB are taken{of} of {len(held)} partitions ({', '.join(held)}), "
                f"and {limit:,} MiB is the limit (TRENDSTREAM_MEMORY_LIMIT_MIB). Start more workers of this stage, "
                "each with a --slot of its own, so that each has fewer partitions; or give this machine more memory "
                "and raise the limit. Nothing is lost: the next start goes on from the newest commit"
            )

    def _reset(self, reason: str) -> None:
        """Throw away what is not committed; `_mend` restores it. May be called again before it has."""
        self._abort_due = reason
        if self._restore_due is None:
            self._restore_due = list(self._tasks)
        self._tasks.clear()
        self._patience.pause()

    def _mend(self) -> None:
        """What an error or a rebalance has left to do."""
        if self._fatal is not None:
            raise self._fatal
        if self._abort_due:
            self._abort(self._abort_due)
            self._abort_due = ""
        if self._restore_due is not None:
            self._own(self._restore_due)
            self._restore_due = None

    def _finish(self) -> None:
        for task in self._tasks.values():
            task.snapshot_due = 0.0  # a clean end leaves nothing to fold again
        self._slice = float("inf")
        try:
            self._commit(snapshots=True)
            self._commit(snapshots=True)  # where an older snapshot was still on its way
        except KafkaException as error:
            if not self._patience.passes(error.args[0], self._in_transaction):
                raise
            self._observer.aborted(self._spec.name, error.args[0].str())  # whoever comes next folds it again
        except UnreachableError as error:
            self._observer.aborted(self._spec.name, str(error))

    # -- input --------------------------------------------------------------------------------------------------

    def _poll(self) -> int:
        # What a commit before has brought comes at once or not at all: then others wait for what was made of it.
        first = self._consumer.poll(_LAST_POLL_S if self._in_transaction and not self._spec.batched else _POLL_S)
        if first is None:
            return 0
        records: list[Any] = [first, *self._consumer.consume(self._config.max_poll - 1, self._gathering())]
        by_task: dict[TaskKey, list[Any]] = {}
        was_silent = False
        for key, failed, run in kafka.runs(records, self._spec.inputs):
            task = self._tasks.get(key)
            if failed:
                self._note(task, run)
            elif task is not None:
                was_silent |= task.caught_up
                task.caught_up = False
                mine = by_task.setdefault(key, [])
                past = mine[-1].offset() if mine else task.position - 1
                mine += _beyond(past, run)
        heard, now = sorted(key for key, mine in by_task.items() if mine), int(time.time() * 1000)
        for key in heard:
            self._tasks[key].last_input_at = now
        if was_silent:
            self._tell_time()  # who speaks again is told of before what it says
        for key in heard:
            self._take(key, self._tasks[key], kafka.Polled(by_task[key]))
        return sum(map(len, by_task.values()))

    def _gathering(self) -> float:
        """How long a poll may wait for more, s. What is folded earlier than the next commit is seen no earlier, and a
        stage that folds whole polls makes fewer and larger records of more."""
        if not self._spec.batched:
            return 0.0
        left = max(self._until_commit(), 0.0)
        return min(left, self._config.control_interval_ms / 1000)  # the clock is not kept waiting

    def _note(self, task: _Task | None, errors: list[Any]) -> None:
        """The end of a partition; raises what is neither that nor passing."""
        for record in errors:
            error = record.error()
            if error.code() == KafkaError._PARTITION_EOF:
                if task is not None:
                    task.caught_up = True
            elif is_fatal(error) or not (error.retriable() or error.code() in PASSING):
                raise KafkaException(error)

    def _take(self, key: TaskKey, task: _Task, messages: Sequence[Message]) -> None:
        if self._spec.batched:
            self._fold(task, messages)
            return
        for position, message in enumerate(messages):
            if self._stop():
                return  # the rest is for whoever comes next
            if task.waiting or not self._guard.ready(task.stage, message):
                if not task.waiting:
                    task.waiting_since = time.monotonic()
                    self._consumer.pause([TopicPartition(*key)])
                task.waiting.extend(messages[position:])
                return
            self._fold(task, [message])
            self._commit_if_due()

    def _release(self) -> bool:
        """Fold what was held back and may go now; whether anything is still held."""
        held = False
        for key, task in self._tasks.items():
            if not task.waiting:
                continue
            while task.waiting:
                waited = (time.monotonic() - task.waiting_since) * 1000
                if not self._guard.ready(task.stage, task.waiting[0]) and waited < self._spec.ready_timeout_ms:
                    break
                self._fold(task, [task.waiting.popleft()])
                task.waiting_since = time.monotonic()
                self._commit_if_due()
            if task.waiting:
                held = True
            else:
                self._consumer.resume([TopicPartition(*key)])
        return held

    def _fold(self, task: _Task, messages: Sequence[Message]) -> None:
        outputs = self._guard.fold(task.stage, messages)
        task.position = messages[-1].offset + 1
        task.newest_at = messages[-1].timestamp
        task.dirty = True
        self._records += len(messages)
        self._publish(outputs)

    def _publish(self, outputs: Sequence[Output]) -> None:
        if outputs and not self._in_transaction:
            self._producer.begin_transaction()
            self._in_transaction = True
        for output in outputs:
            kafka.send(self._producer, output.topic, output.partition, output.value, output.key)
        self._outputs += len(outputs)
        self._producer.poll(0)

    def _tick(self, committing: bool) -> None:
        """Tell the time at intervals, and with whatever was folded: who reads that hears at once how far it goes."""
        passed = time.monotonic() - self._last_tick >= self._config.control_interval_ms / 1000
        if passed or (committing and self._records):
            self._last_tick = time.monotonic()
            self._tell_time()

    def _tell_time(self) -> None:
        if self._clock is None or not self._tasks:
            return
        status = {k: TaskStatus(t.stage, t.caught_up, t.last_input_at) for k, t in self._tasks.items()}
        self._publish(self._clock.tick(status, int(time.time() * 1000)))
        wanted = self._clock.paused(status) & set(self._tasks)
        if wanted - self._paused:
            self._consumer.pause([TopicPartition(*k) for k in sorted(wanted - self._paused)])
        if self._paused - wanted:
            self._consumer.resume([TopicPartition(*k) for k in sorted(self._paused - wanted) if k in self._tasks])
        self._paused = wanted

    # -- commit -------------------------------------------------------------------------------------------------

    def _dirty(self) -> bool:
        return self._in_transaction or any(
            t.dirty or t.upload is not None or self._snapshot_due(t) for t in self._tasks.values()
        )

    def _snapshot_due(self, task: _Task) -> bool:
        waits = task.position > (task.snapshot.offset if task.snapshot else 0)
        return self._chunks is not None and waits and time.monotonic() >= task.snapshot_due

    def _until_commit(self) -> float:
        """Seconds until the next is due; zero or less where it is."""
        return self._last_commit + self._config.commit_interval_ms / 1000 - time.monotonic()

    def _commit_if_due(self) -> None:
        if self._until_commit() <= 0:
            self._commit(snapshots=True)

    def _commit(self, snapshots: bool) -> None:
        """The one place where anything becomes true."""
        started = time.monotonic()
        if self._abort_due or not self._dirty():  # what waits for its abort is not whole
            return
        # 1. The transaction is open already if the fold has published; else open it for the offsets.
        if not self._in_transaction:
            self._producer.begin_transaction()
            self._in_transaction = True
        # 2. Snapshots that are due are frozen; their chunks go out beside the transaction, a slice a commit.
        taken = self._snapshot_chunks() if snapshots and self._chunks is not None else []
        # 3. Manifests of those whose chunks are all out and flushed, inside the transaction: a manifest is seen only
        #    with its own offset or a later one.
        for task, snapshot in taken:
            self._publish([snapshot.manifest])
            task.snapshot, task.dirty = snapshot.described, True  # its progress tells of it
        # 4. The progress of each task that moved.
        moved = [(key, task) for key, task in self._tasks.items() if task.dirty]
        told = [(key, task, self._progress(key, task)) for key, task in moved]
        for key, _, progress in told:
            self._publish([Output(PROGRESS, 0, encode_json(progress), progress_key(self._spec.name, key))])
        # 5. The consumed offsets.
        if moved:
            positions = [TopicPartition(*key, task.position) for key, task in moved]
            group = self._consumer.consumer_group_metadata()
            self._patience.ask(kafka.send_offsets, self._producer, positions, group)
        # 6. Commit: outputs, offsets and manifests appear together, or not at all.
        self._patience.ask(self._producer.commit_transaction)
        self._in_transaction = False
        # 7. Only now may the state call itself clean, and older snapshots go.
        for _, task in moved:
            task.dirty = False
        for task, snapshot in taken:
            task.manifests.append(snapshot.described)
            self._thin(task)
        # From the end: where a commit takes longer than the interval, there would be one after every record.
        self._last_commit = time.monotonic()
        self._observer.committed(self._spec.name, self._records, self._outputs, self._last_commit - started)
        self._records = self._outputs = 0
        now = time.time()
        for _, task, progress in told:
            self._observer.progressed(progress, now - task.newest_at / 1000 if task.newest_at else None)
            task.newest_at = 0

    def _progress(self, key: TaskKey, task: _Task) -> Progress:
        state = {} if self._spec.stateful else task.stage.snapshot()
        return Progress(
            stage=self._spec.name,
            topic=key[0],
            partition=key[1],
            offset=task.position,
            counters=task.stage.counters(),
            state=state,
            report=reported(task.stage),
            slot=self._config.slot,
            snapshot_offset=task.snapshot.offset if task.snapshot else -1,
            snapshot_at=task.snapshot.taken_at if task.snapshot else 0,
        )

    def _snapshot_chunks(self) -> list[tuple[_Task, Upload]]:
        """Send a slice of what is on its way; the snapshots whose last chunk is out."""
        assert self._chunks is not None
        taken = []
        end = time.monotonic() + self._slice
        for key, task in self._tasks.items():
            if task.upload is None and self._snapshot_due(task):
                task.snapshot_due = time.monotonic() + self._config.snapshot_interval_ms / 1000
                now, blobs = int(time.time() * 1000), frozen(task.stage)
                task.upload = Upload(self._spec.name, key, task.position, blobs, now, self._config.partitions)
            if task.upload is None:
                continue
            for chunk in task.upload:
                kafka.send(self._chunks, chunk.topic, chunk.partition, chunk.value, chunk.key)
                if time.monotonic() >= end:
                    break
            else:
                taken.append((task, task.upload))
                task.upload = None
        if taken and (left := self._patience.flush(self._chunks)):
            raise UnreachableError(f"{left} chunks of a snapshot were not taken by the broker in time")
        return taken

    def _thin(self, task: _Task) -> None:
        for manifest in ladder(task.manifests):
            task.manifests.remove(manifest)
            self._bury(drop(manifest, self._config.partitions))

    def _bury(self, tombstones: Sequence[Output]) -> None:
        assert self._chunks is not None
        for tombstone in tombstones:
            kafka.send(self._chunks, tombstone.topic, tombstone.partition, None, tombstone.key)

    # -- ownership ----------------------------------------------------------------------------------------------

    # Callbacks run inside of the consumer's poll, which garbles what is raised in them: nothing is. What may fail waits
    # for `_mend`.

    def _assign(self, _: Any, partitions: list[TopicPartition]) -> None:
        self._restore_due = [(p.topic, p.partition) for p in partitions]
        self._consumer.assign([])

    def _revoke(self, _: Any, partitions: list[TopicPartition]) -> None:
        try:
            self._commit(snapshots=False)
        except KafkaException as error:
            self._abort_due = error.args[0].str()
            if is_fatal(error.args[0]):
                self._fatal = error
        self._restore_due = None
        self._tasks.clear()
        self._paused.clear()

    def _own(self, keys: list[TaskKey]) -> None:
        """Build, restore and assign these tasks, in place of all that was owned."""
        self._require_known(keys)
        self._tasks = {
            key: self._task(restored) for key, restored in self._restorer.restore(sorted(keys), self._consumer).items()
        }
        self._paused = set()
        if self._clock is not None:
            self._clock = self._spec.clock() if self._spec.clock else None
            self._last_tick = 0.0  # before anything is folded, others hear which sources there are
        partitions = [TopicPartition(*key, task.position) for key, task in self._tasks.items()]
        self._consumer.assign(partitions)
        self._consumer.resume(partitions)  # a pause outlives an assignment, and its reason is gone with the old state
        self._observer.assigned(self._spec.name, list(self._tasks))

    def _task(self, restored: Restored) -> _Task:
        if restored.strays:
            self._bury(restored.strays)
        return _Task(
            restored.stage,
            restored.position,
            last_input_at=int(time.time() * 1000),
            manifests=list(restored.manifests),
            snapshot=restored.snapshot,
            snapshot_due=time.monotonic() + self._config.snapshot_interval_ms / 1000,
        )

    def _require_known(self, keys: Sequence[TaskKey]) -> None:
        """Refuse partitions that our own topics were not made with; one more of the platform's is one more source."""
        for topic, partition in keys:
            if topic in PLATFORM_TOPICS or topic not in TOPICS:
                continue
            made = TOPICS[topic].partitions or self._config.partitions
            if partition >= made:
                raise BrokerError(
                    f"{self._spec.name}: {topic} has a partition {partition}, but was made with {made} "
                    "(TRENDSTREAM_PARTITIONS): a product's records would lie in two logs. Make the topics anew with "
                    "the number that is wanted, and replay the platform's into them"
                )

    def _new_producer(self) -> Producer:
        own = f"trendstream.{self._spec.name}.{self._config.slot}"
        return kafka.producer(self._config.bootstrap, own, self._config.transaction_timeout_ms)

    def _abort(self, reason: str) -> None:
        self._observer.aborted(self._spec.name, reason)
        if self._in_transaction:
            try:
                self._patience.ask(self._producer.abort_transaction)  # which a fenced zombie cannot: it gets no further
            except KafkaException as error:
                if error.args[0].code() not in ABORTED_BY_THE_NEXT:
                    raise
            self._in_transaction = False
        # A producer whose records were lost with a broker was seen to stand still for good in its next transaction.
        self._producer = self._new_producer()
        self._patience.ask(self._producer.init_transactions)
        self._records = self._outputs = 0


_POLL_S, _LAST_POLL_S = 0.02, 0.005
_MEASURED_EACH_S = 1.0


def _beyond(past: int, run: list[Any]) -> list[Any]:
    """The records of one partition whose offset is beyond all before: a restore reads again what was polled, and a
    rebalance within one poll may give a partition back."""
    offsets = [record.offset() for record in run]
    if offsets[0] > past and all(map(lt, offsets, offsets[1:])):
        return run
    kept = []
    for record, offset in zip(run, offsets, strict=True):
        if offset > past:
            kept.append(record)
            past = offset
    return kept
