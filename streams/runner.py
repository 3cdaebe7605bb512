"""A stage on Kafka: consume, fold, and commit outputs, offsets and snapshot manifests in one transaction.

The order of a commit is written once, in `Runner._commit`. Any abort throws away the state of every owned partition and
restores it: state is never ahead of its offsets. A fatal error (a fenced zombie) ends the process; an error that passes
(a new leader) is worth another try, for as long as `RunnerConfig.patience_ms` says; a broker out of reach is waited
for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import lt
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Producer, TopicPartition

from streams import kafka
from streams.codecs import decode_json, encode_json
from streams.errors import BrokerError, MemoryLimitError, PoisonError, SnapshotError, StreamsError, UnreachableError
from streams.memory import resident_mib
from streams.observing import Observer, Silent
from streams.records import Progress, Skip, SnapshotManifest
from streams.snapshots import TOPIC as SNAPSHOTS
from streams.snapshots import SnapshotReader, Upload, drop, ladder, snapshot_partition
from streams.stage import Clock, Message, Output, Stage, StageSpec, TaskKey, TaskStatus, frozen, reported
from streams.topics import PLATFORM_TOPICS, TOPICS

PROGRESS = "trend.progress"
SKIPS = "trend.skips"


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


class _EndedError(Exception):
    """The worker was told to stop while it restored."""


class Runner:
    """Runs one stage until told to stop. One thread; everything happens in `run`, turn by turn."""

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
        self._skips: set[tuple[str, int, int]] = set()  # topic, partition and offset of records to pass over
        self._clock: Clock | None = spec.clock() if spec.clock else None
        self._in_transaction = False
        self._abort_due = ""  # why the open transaction has to go
        self._restore_due: list[TaskKey] | None = None  # tasks that are ours, and have no state yet
        self._fatal: KafkaException | None = None  # raised in a callback
        self._failing_since: float | None = None
        self._pause_s = _FIRST_PAUSE_S  # before the next try
        self._give_up_at: float | None = None  # told to stop: when calls that wait for an answer end
        self._records = self._outputs = 0
        self._last_commit = self._last_tick = self._last_measured = 0.0
        self._slice = config.snapshot_slice_ms / 1000
        name = f"trendstream.{spec.name}"
        self._consumer = kafka.consumer(config.bootstrap, name, f"{name}.{config.slot}")
        self._producer = self._new_producer()
        self._chunks = kafka.producer(config.bootstrap) if spec.stateful else None
        self._versioned = kafka.consumer(config.bootstrap, f"{name}.versioned") if spec.versioned else None

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
        except _EndedError:
            pass  # told to stop in the middle of a restore: there is nothing to commit
        except KafkaException as error:
            if self._is_ending() and self._passes(error.args[0]):
                self._observer.aborted(self._spec.name, error.args[0].str())
                return
            raise BrokerError(f"{self._spec.name}: {error.args[0].str()} ({error.args[0].name()})") from error
        finally:
            self._tasks.clear()  # closing revokes, and that would commit: never what a failed step has left half done
            self._abort_due = self._abort_due or "the worker ends"
            self._consumer.close()
            if self._versioned is not None:
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
                self._start_versioned(counts)
                self._ask(self._producer.init_transactions)
                return
            except KafkaException as error:
                if not self._passes(error.args[0]):
                    raise
                reason = error.args[0].str()
            except UnreachableError as error:
                reason = str(error)
            self._observer.warned(self._spec.name, f"{reason}; trying again in {self._pause_s:g} s")
            self._pause()

    def _step(self) -> None:
        try:
            self._poll_versioned(0.0)
            polled = self._poll()
            self._mend()
            held = self._release()
            self._tick()
            if held or not polled:  # others wait for what is done: say it now
                self._commit(snapshots=True)
            else:
                self._commit_if_due()
            self._measure()
            self._failing_since, self._pause_s = None, _FIRST_PAUSE_S
        except KafkaException as error:
            cause = error.args[0]
            if not self._passes(cause):
                raise
            self._reset(cause.str())
        except UnreachableError as error:
            self._reset(str(error))

    def _passes(self, cause: Any) -> bool:
        """Whether an abort and another try may help."""
        if _is_fatal(cause):
            return False
        passing = cause.txn_requires_abort() or cause.retriable() or cause.code() in _PASSING
        return cause.code() in _UNREACHED or ((passing or self._in_transaction) and self._has_patience())

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

    def _has_patience(self) -> bool:
        self._failing_since = self._failing_since or time.monotonic()
        return time.monotonic() - self._failing_since < self._config.patience_ms / 1000

    def _reset(self, reason: str) -> None:
        """Throw away what is not committed; `_mend` restores it. May be called again before it has."""
        self._abort_due = reason
        if self._restore_due is None:
            self._restore_due = list(self._tasks)
        self._tasks.clear()
        self._pause()

    def _pause(self) -> None:
        """What failed at once is not asked again at once."""
        kafka.sleep(self._pause_s, self._stop)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

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

    def _is_ending(self) -> bool:
        """Whether the worker was told to stop; from then on it does not wait for a broker for long."""
        if self._stop() and self._give_up_at is None:
            self._give_up_at = time.monotonic() + _LAST_WAIT_S
        return self._give_up_at is not None

    def _is_too_late(self, deadline: float) -> bool:
        """Whether to wait no longer for an answer."""
        limit = self._give_up_at if self._is_ending() else deadline
        return time.monotonic() >= (limit or deadline)

    def _ask(self, call: Callable[..., Any], *arguments: Any) -> None:
        """A call of the transactional producer. After a time-out it is called again, and goes on where it was."""
        deadline = time.monotonic() + _WAIT_S
        while True:
            try:
                call(*arguments, _ANSWER_S)
                return
            except KafkaException as error:
                cause = error.args[0]
                if not cause.retriable() or cause.code() == KafkaError._CONFLICT or self._is_too_late(deadline):
                    raise

    def _flush_chunks(self) -> None:
        assert self._chunks is not None
        deadline = time.monotonic() + _WAIT_S
        while left := self._chunks.flush(_ANSWER_S):
            if self._is_too_late(deadline):
                raise UnreachableError(f"{left} chunks of a snapshot were not taken by the broker in time")

    def _finish(self) -> None:
        for task in self._tasks.values():
            task.snapshot_due = 0.0  # a clean end leaves nothing to fold again
        self._slice = float("inf")
        try:
            self._commit(snapshots=True)
            self._commit(snapshots=True)  # where an older snapshot was still on its way
        except KafkaException as error:
            if not self._passes(error.args[0]):
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
        for key, failed, run in kafka.runs(records):
            task = self._tasks.get(key)
            if failed:
                self._note(task, run)
            elif task is not None:
                task.caught_up = False
                mine = by_task.setdefault(key, [])
                past = mine[-1].offset() if mine else task.position - 1
                mine += _beyond(past, run)
        now = int(time.time() * 1000)
        for key in sorted(key for key, mine in by_task.items() if mine):
            self._tasks[key].last_input_at = now
            self._take(key, self._tasks[key], kafka.Polled(by_task[key]))
        return sum(map(len, by_task.values()))

    def _gathering(self) -> float:
        """How long a poll may wait for more, s. What is folded earlier than the next commit is seen no earlier, and a
        stage that folds whole polls makes fewer and larger records of more."""
        if not self._spec.batched:
            return 0.0
        due = self._last_commit + self._config.commit_interval_ms / 1000 - time.monotonic()
        return min(max(due, 0.0), self._config.control_interval_ms / 1000)  # the clock is not kept waiting

    def _note(self, task: _Task | None, errors: list[Any]) -> None:
        """The end of a partition; raises what is neither that nor passing."""
        for record in errors:
            error = record.error()
            if error.code() == KafkaError._PARTITION_EOF:
                if task is not None:
                    task.caught_up = True
            elif _is_fatal(error) or not (error.retriable() or error.code() in _PASSING):
                raise KafkaException(error)

    def _take(self, key: TaskKey, task: _Task, messages: Sequence[Message]) -> None:
        if self._spec.batched:
            self._fold(task, messages)
            return
        for position, message in enumerate(messages):
            if self._stop():
                return  # the rest is for whoever comes next
            if task.waiting or not self._ready(task, message):
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
                if not self._ready(task, task.waiting[0]) and waited < self._spec.ready_timeout_ms:
                    break
                self._fold(task, [task.waiting.popleft()])
                task.waiting_since = time.monotonic()
                self._commit_if_due()
            if task.waiting:
                held = True
            else:
                self._consumer.resume([TopicPartition(*key)])
        return held

    def _ready(self, task: _Task, message: Message) -> bool:
        with self._at([message]):
            return _place(message) in self._skips or task.stage.ready(message)

    def _fold(self, task: _Task, messages: Sequence[Message]) -> None:
        with self._at(messages):
            outputs = task.stage.fold(self._without_skips(messages))
        task.position = messages[-1].offset + 1
        task.newest_at = messages[-1].timestamp
        task.dirty = True
        self._records += len(messages)
        self._publish(outputs)

    def _without_skips(self, messages: Sequence[Message]) -> Sequence[Message]:
        if not self._skips:
            return messages
        kept = [m for m in messages if _place(m) not in self._skips]
        for message in messages:
            if _place(message) in self._skips:
                self._observer.warned(self._spec.name, f"passed over {_named(message)}, as trend.skips says")
        return kept

    @contextmanager
    def _at(self, messages: Sequence[Message]) -> Iterator[None]:
        """Name the record at which the stage's own code failed, and the way past it."""
        try:
            yield
        except Exception as error:
            what = str(error) if isinstance(error, StreamsError) else f"{type(error).__name__}: {error}"
            first, last = messages[0], messages[-1]
            until = f" to {last.offset}" if last.offset > first.offset else ""
            raise PoisonError(
                f"{self._spec.name} cannot fold {_named(first)}{until}: {what}. See it with `trendstream topics cat "
                f"{first.topic} --partition {first.partition} --offset {first.offset}`; go past it with `trendstream "
                f"topics skip {self._spec.name} {first.topic} {first.partition} {first.offset} --reason …`"
            ) from error

    def _publish(self, outputs: Sequence[Output]) -> None:
        if outputs and not self._in_transaction:
            self._producer.begin_transaction()
            self._in_transaction = True
        for output in outputs:
            kafka.send(self._producer, output.topic, output.partition, output.value, output.key)
        self._outputs += len(outputs)
        self._producer.poll(0)

    def _tick(self) -> None:
        if self._clock is None or not self._tasks:
            return
        if time.monotonic() - self._last_tick < self._config.control_interval_ms / 1000:
            return
        self._last_tick = time.monotonic()
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

    def _commit_if_due(self) -> None:
        if time.monotonic() - self._last_commit >= self._config.commit_interval_ms / 1000:
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
            self._publish([Output(PROGRESS, 0, encode_json(progress), _progress_key(self._spec.name, key))])
        # 5. The consumed offsets.
        if moved:
            positions = [TopicPartition(*key, task.position) for key, task in moved]
            group = self._consumer.consumer_group_metadata()
            self._ask(kafka.send_offsets, self._producer, positions, group)
        # 6. Commit: outputs, offsets and manifests appear together, or not at all.
        self._ask(self._producer.commit_transaction)
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
        if taken:
            self._flush_chunks()
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
            if _is_fatal(error.args[0]):
                self._fatal = error
        self._restore_due = None
        self._tasks.clear()
        self._paused.clear()

    def _own(self, keys: list[TaskKey]) -> None:
        """Build, restore and assign these tasks, in place of all that was owned."""
        self._require_known(keys)
        self._tasks = self._restore(sorted(keys))
        self._paused = set()
        if self._clock is not None:
            self._clock = self._spec.clock() if self._spec.clock else None
            self._last_tick = 0.0  # before anything is folded, others hear which sources there are
        partitions = [TopicPartition(*key, task.position) for key, task in self._tasks.items()]
        self._consumer.assign(partitions)
        self._consumer.resume(partitions)  # a pause outlives an assignment, and its reason is gone with the old state
        self._observer.assigned(self._spec.name, list(self._tasks))

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
                self._ask(self._producer.abort_transaction)  # which a fenced zombie cannot: it gets no further
            except KafkaException as error:
                if error.args[0].code() not in _ABORTED_BY_THE_NEXT:
                    raise
            self._in_transaction = False
        # A producer whose records were lost with a broker was seen to stand still for good in its next transaction.
        self._producer = self._new_producer()
        self._ask(self._producer.init_transactions)
        self._records = self._outputs = 0

    # -- restore ------------------------------------------------------------------------------------------------

    def _restore(self, keys: list[TaskKey]) -> dict[TaskKey, _Task]:
        if not keys:
            return {}
        skips = (decode_json(m.value, Skip) for m in kafka.read(self._config.bootstrap, SKIPS) if m.value is not None)
        self._skips = {(s.topic, s.partition, s.offset) for s in skips if s.stage == self._spec.name}
        committed = self._consumer.committed([TopicPartition(*k) for k in keys], timeout=_RESTORE_ANSWER_S)
        offsets = {(p.topic, p.partition): p.offset for p in committed}
        if self._spec.stateful:
            snapshots = SnapshotReader(self._spec.name)
            wanted = {snapshot_partition(self._spec.name, k, self._config.partitions) for k in keys}
            snapshots.put(kafka.read(self._config.bootstrap, SNAPSHOTS, sorted(wanted)))
            return {k: self._restore_task(k, offsets[k], snapshots) for k in keys}
        states = self._progress_states({k: offset for k, offset in offsets.items() if offset >= 0})
        tasks = {}
        for key in keys:
            stage = self._spec.make(key)
            if key in states:
                stage.restore(states[key].state)
            tasks[key] = self._task(stage, self._first(key) if offsets[key] < 0 else offsets[key])
        return tasks

    def _restore_task(self, key: TaskKey, committed: int, snapshots: SnapshotReader) -> _Task:
        started = time.monotonic()
        first = self._first(key)
        stage, taken = self._from_snapshot(key, committed, snapshots)
        begin = taken.offset if taken else first
        if committed > begin:
            if begin < first or (taken is None and first > 0):
                found = f"usable snapshot ends at offset {begin}" if taken else "snapshot can be used"
                raise SnapshotError(
                    f"{self._spec.name}: of {key[0]}/{key[1]} {'the newest' if taken else 'no'} {found}, but its "
                    f"records are kept only from {first}: the state cannot be made again. Put trend.snapshots back "
                    f"from a copy, or reset the group trendstream.{self._spec.name} to {first} to begin anew with what "
                    f"is kept; to prevent it, lengthen the retention of {key[0]} or take snapshots more often"
                )
            if taken is None:
                self._observer.warned(
                    self._spec.name,
                    f"{key[0]}/{key[1]} has no usable snapshot: its {committed - first} offsets are folded again "
                    "from the first; if it ran for long before, trend.snapshots was emptied",
                )
            self._refold(stage, key, begin, committed)
        task = self._task(stage, committed if committed >= 0 else begin)
        task.manifests = snapshots.manifests(key)
        self._bury(snapshots.strays(key, self._config.partitions))
        task.snapshot = taken
        task.snapshot_due = time.monotonic() + self._config.snapshot_interval_ms / 1000
        self._observer.restored(self._spec.name, key, begin, task.position, time.monotonic() - started)
        return task

    def _from_snapshot(
        self, key: TaskKey, committed: int, snapshots: SnapshotReader
    ) -> tuple[Stage, SnapshotManifest | None]:
        """The stage as of the newest snapshot that can be used; a fresh one where none can."""
        for manifest, blobs in snapshots.before(key, committed):
            stage = self._spec.make(key)
            why = "a chunk is missing or broken"
            if blobs is not None:
                try:
                    stage.restore(blobs)
                    return stage, manifest
                except SnapshotError as error:
                    why = str(error)
            self._observer.warned(
                self._spec.name, f"the snapshot of {key[0]}/{key[1]} at offset {manifest.offset} is passed over: {why}"
            )
        return self._spec.make(key), None

    def _refold(self, stage: Stage, key: TaskKey, begin: int, end: int) -> None:
        """Fold the input in [begin, end) again, for its state alone: its outputs are published already."""
        batch: list[Message] = []
        for message in kafka.read(self._config.bootstrap, key[0], [key[1]], {key[1]: begin}):
            if message.offset >= end:
                break
            if self._stop():
                raise _EndedError
            batch.append(message)
            if len(batch) >= (self._config.max_poll if self._spec.batched else 1):
                with self._at(batch):
                    stage.fold(self._without_skips(batch))
                batch = []
        if batch:
            with self._at(batch):
                stage.fold(self._without_skips(batch))

    def _task(self, stage: Stage, position: int) -> _Task:
        return _Task(stage, position, last_input_at=int(time.time() * 1000))

    def _first(self, key: TaskKey) -> int:
        return int(self._consumer.get_watermark_offsets(TopicPartition(*key), timeout=_RESTORE_ANSWER_S)[0])

    def _progress_states(self, offsets: Mapping[TaskKey, int]) -> dict[TaskKey, Progress]:
        """The progress of each task at its committed offset. All tasks of all stages share one partition, so another
        worker's open transaction may hide it; an older one would not belong to the offset: wait for it."""
        wanted = {_progress_key(self._spec.name, k): k for k in offsets}
        deadline = time.monotonic() + 60
        while True:
            found: dict[TaskKey, Progress] = {}
            for message in kafka.read(self._config.bootstrap, PROGRESS):
                if message.key in wanted and message.value is not None:
                    found[wanted[message.key]] = decode_json(message.value, Progress)
            behind = [k for k, offset in offsets.items() if k not in found or found[k].offset != offset]
            if not behind:
                return found
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"{self._spec.name}: {PROGRESS} does not hold the state of {behind} at the committed offsets "
                    f"{[offsets[k] for k in behind]} within 60 s; were the offsets of the group set by hand?"
                )
            time.sleep(0.1)

    # -- versioned data -----------------------------------------------------------------------------------------

    def _start_versioned(self, counts: Mapping[str, int]) -> None:
        """Read all versions that are there, then go on beside the input."""
        if self._versioned is None:
            return
        partitions = [TopicPartition(t, p, OFFSET_BEGINNING) for t in self._spec.versioned for p in range(counts[t])]
        self._versioned.assign(partitions)
        behind = {(p.topic, p.partition) for p in partitions}
        deadline = time.monotonic() + 60
        while behind and not self._stop():
            behind -= self._poll_versioned(0.1)
            if time.monotonic() > deadline:
                raise UnreachableError(f"{sorted(behind)} could not be read to their end within 60 s")

    def _poll_versioned(self, timeout: float) -> set[tuple[str, int]]:
        ended: set[tuple[str, int]] = set()
        if self._versioned is None:
            return ended
        records: list[Any] = self._versioned.consume(500, timeout)
        for record in records:
            error = record.error()
            if error is None:
                self._spec.versioned[record.topic()].put(kafka.message(record))
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add((record.topic(), record.partition()))
            elif _is_fatal(error):
                raise KafkaException(error)
        return ended


_POLL_S, _LAST_POLL_S = 0.02, 0.005
_ANSWER_S = 1.0  # of one call; it is called again until …
_WAIT_S = 30.0  # … it gives up,
_LAST_WAIT_S = 5.0  # or this soon after the worker was told to stop
_RESTORE_ANSWER_S = 5.0
_MEASURED_EACH_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0  # between tries, doubled each time

# Nobody answers: there is nothing that a restart would change, so it is waited for without end.
_UNREACHED = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
}
# While a broker is away and its partitions and groups find another one.
_PASSING = {
    *_UNREACHED,
    KafkaError._WAIT_COORD,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError._UNKNOWN_PARTITION,  # of a broker that is just back: that all topics are there was asked before
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNSTABLE_OFFSET_COMMIT,
}
# What says of an abort that the producer's heir has to do it: a call that did not come back holds the producer; or the
# abort has overtaken the first record on the way to its coordinator, and librdkafka calls that fatal (its issue 4849).
_ABORTED_BY_THE_NEXT = {KafkaError._CONFLICT, KafkaError.INVALID_TXN_STATE}
_FENCED = {KafkaError._FATAL, KafkaError._FENCED, KafkaError.FENCED_INSTANCE_ID}


def _is_fatal(error: Any) -> bool:
    # A consumer says only once that it was fenced, and that error's own flag is not set.
    return bool(error.fatal()) or error.code() in _FENCED


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


def _progress_key(stage: str, task: TaskKey) -> bytes:
    return f"{stage}/{task[0]}/{task[1]}".encode()


def _place(message: Message) -> tuple[str, int, int]:
    return message.topic, message.partition, message.offset


def _named(message: Message) -> str:
    return f"{message.topic}/{message.partition} offset {message.offset}"
