"""The ingest fold: from the platform's records of one partition to clean rows and dead letters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from streams.codecs import encode_json
from streams.errors import SnapshotError
from streams.ingest.batches import Batch
from streams.ingest.columns import PlainOrders
from streams.ingest.config import IngestConfig
from streams.ingest.decoding import RecordDecoder
from streams.ingest.events import Event, EventReader, OrderPart
from streams.ingest.orders import OrderMemory, Waiting
from streams.ingest.plain import PlainReader
from streams.ingest.privacy import MAX_KEY_BYTES, Keyring, key_label
from streams.ingest.products import Products
from streams.ingest.reasons import Reason, RejectedError
from streams.ingest.seen import SeenIds
from streams.partitioning import partition_of
from streams.records import EventKind, SourceState
from streams.records.outside import DeadLetter, SourcePosition
from streams.stage import Fact, Message, Output, TaskKey
from streams.topics import DAY_MS, PLATFORM_MAX_BYTES, TIME_TOPICS
from streams.watermarks import SourceWatermark

_LONG_AGO = -(2**62)
_SNAPSHOT = 2  # version of the snapshot's form
_FEW = 8  # records: below, columns cost more than they save
_PRODUCTS = 1_000_000  # codes in memory


class IngestStage:
    """One partition of one platform topic. The unit of accepting is the event: an order's lines count together.

    At any time read = accepted + repeated + dead + waiting.
    """

    def __init__(self, task: TaskKey, config: IngestConfig) -> None:
        self._topic, self._partition = task
        self._task = task
        self._config = config
        self._keys = Keyring(config.secret)
        self._decoder = RecordDecoder(self._topic)
        self._reader = EventReader(self._topic, config, self._keys)
        self._seen = SeenIds()
        self._number_products({})
        self._mark = SourceWatermark(config.out_of_order_ms)
        self._now = _LONG_AGO  # newest record time
        self._counts = {"read": 0, "accepted": 0, "repeated": 0, "dead": 0, "waiting": 0}

    @property
    def watermark(self) -> int | None:
        """Of this source partition, UTC ms; None before it is known."""
        return self._mark.value

    @property
    def newest(self) -> int | None:
        """Newest confirmed event time, UTC ms."""
        return self._mark.newest

    def ready(self, message: Message) -> bool:
        return True

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        """A poll in offset order. Where polls end changes the batches, never the rows of a partition or their order."""
        if len(self._products) > self._room:
            self._number_products(self._orders.dump())
        batch = Batch(self._task, self._config.partitions, self._config.max_bytes, self._products)
        if self._topic == "orders" and len(messages) >= _FEW:
            self._fold_orders(messages, batch)
        else:
            for message in messages:
                self._fold_one(message, self._read(message), batch)
        return batch.outputs()

    def counters(self) -> dict[str, int]:
        return dict(sorted(self._counts.items()))

    def report(self) -> dict[str, Fact]:
        """The newest confirmed event time."""
        return {} if self._mark.newest is None else {"event_time": self._mark.newest}

    def snapshot(self) -> dict[str, bytes]:
        digests, times = self._seen.dump()
        state = {
            "version": _SNAPSHOT,
            "now": self._now,
            "watermark": self._mark.dump(),
            "counters": self.counters(),
        }
        blobs = {"state": msgspec.msgpack.encode(state), "seen": digests, "seen_at": times}
        return blobs | self._orders.dump()

    def restore(self, blobs: Mapping[str, bytes]) -> None:
        state = msgspec.msgpack.decode(blobs["state"])
        if state["version"] != _SNAPSHOT:
            raise SnapshotError(
                f"ingest {self._topic}/{self._partition}: snapshot of version {state['version']}, this is {_SNAPSHOT}; "
                "start without it, or run the version that wrote it"
            )
        self._now = state["now"]
        self._mark.load(state["watermark"])
        self._counts = dict(state["counters"])
        self._number_products(blobs)
        self._seen.load(blobs["seen"], blobs["seen_at"])

    def _number_products(self, orders: Mapping[str, bytes]) -> None:
        """Begin with only the products of these remembered orders."""
        self._products = Products(self._config.partitions)
        self._orders = OrderMemory(self._products)
        if orders:
            self._orders.load(orders)
        self._plain = PlainReader(self._config, self._keys, self._products)
        self._room = max(_PRODUCTS, 2 * len(self._products))

    def _fold_orders(self, messages: Sequence[Message], batch: Batch) -> None:
        """Plain orders by stretches, and the others between them one by one.

        A plain order shares no id with anything remembered or with another record of the poll. So it neither changes
        what the others become nor hangs on them; only the order of what is written and remembered is to be kept.
        """
        orders = self._plain.read(messages, self._now)
        events = {i: self._read(messages[i]) for i in orders.unread}
        tied = orders.tied(self._known(orders, events.values()))
        start = 0
        for i in sorted(orders.odd | tied):
            self._fold_stretch(messages, orders, start, i, batch)
            if i in orders.odd:
                self._fold_one(messages[i], events[i] if i in events else self._read(messages[i]), batch)
            else:
                self._fold_tied(messages, orders, i, batch)
            start = i + 1
        self._fold_stretch(messages, orders, start, len(messages), batch)

    def _fold_tied(self, messages: Sequence[Message], orders: PlainOrders, i: int, batch: Batch) -> None:
        """A well formed order that is a repeat, adds to another, or has done nothing but come first."""
        self._pass(orders.now[i], batch)
        if self._seen.among(orders.ids[orders.id_start[i] : orders.id_start[i + 1]]):
            self._counts["read"] += 1
            self._counts["repeated"] += 1
        elif self._orders.among([orders.order[i]]):
            self._fold_one(messages[i], self._read(messages[i]), batch)
        else:
            self._fold_stretch(messages, orders, i, i + 1, batch)

    def _known(self, orders: PlainOrders, events: Iterable[Event | RejectedError]) -> set[bytes]:
        """Digests of a poll that something remembered, or more than one of its records, has."""
        known = self._seen.among(orders.ids) | self._orders.among(orders.order)
        for event in events:
            if isinstance(event, Event) and event.order is not None:
                known.update(event.ids, (event.order.order,))
        return known | orders.shared()

    def _fold_stretch(
        self, messages: Sequence[Message], orders: PlainOrders, start: int, stop: int, batch: Batch
    ) -> None:
        """Plain orders from `start` to before `stop`."""
        if start == stop:
            return
        times = orders.ordered_at[start:stop].tolist()
        newest = max(times) if self._mark.newest is None else max(*times, self._mark.newest)
        if stop - start > 1 and self._day_of(newest) != self._day_of(self._mark.newest):
            middle = (start + stop) // 2  # a day may end here: after which record?
            self._fold_stretch(messages, orders, start, middle, batch)
            self._fold_stretch(messages, orders, middle, stop, batch)
            return
        if min(times) < newest - self._config.out_of_order_ms - self._config.ring_ms:
            for message in messages[start:stop]:  # some may be too late: each by the watermark that it meets
                self._fold_one(message, self._read(message), batch)
            return
        first, last = orders.id_start[start], orders.id_start[stop]
        self._seen.extend(orders.ids[first:last], orders.id_now[first:last])
        self._orders.extend(orders.order[start:stop], orders.placed[start:stop])
        batch.orders.extend(orders, start, stop)
        self._counts["read"] += stop - start
        self._counts["accepted"] += stop - start
        self._observe(times, batch)
        self._pass(orders.now[stop - 1], batch)

    def _read(self, message: Message) -> Event | RejectedError:
        try:
            return self._reader.read(self._decoder.decode(message.value), message)
        except RejectedError as rejected:
            return rejected

    def _fold_one(self, message: Message, event: Event | RejectedError, batch: Batch) -> None:
        self._counts["read"] += 1
        self._pass(message.timestamp, batch)
        try:
            if isinstance(event, RejectedError):
                raise event
            self._take(message, event, batch)
        except RejectedError as rejected:
            key, sealed = self._seal(message)
            self._bury(batch, message.offset, message.timestamp, key, sealed, rejected)

    def _take(self, message: Message, event: Event, batch: Batch) -> None:
        for digest in event.ids:
            if digest in self._seen:
                self._counts["repeated"] += 1
                return
        watermark = self._mark.value
        if watermark is not None and event.bound_at is not None and event.bound_at < watermark - self._config.ring_ms:
            days = (watermark - event.bound_at) // DAY_MS
            raise RejectedError(
                Reason.TOO_LATE,
                f"{days} days before its source's watermark; windows reach back {self._config.ring_days}",
            )
        if event.order is not None:
            self._take_order(message, event, event.order, batch)
        else:
            for row in event.rows:
                batch.events[self._partition_of(row[1])].append(row)
            for text in event.texts:
                batch.texts[self._partition_of(text[0])].append(text)
            for picture in event.pictures:
                batch.pictures[self._partition_of(picture[0])].append(picture)
            for promotion in event.promotions:
                batch.promotions[self._partition_of(promotion[0])].append(promotion)
            self._counts["accepted"] += 1
        self._seen.add(event.ids, self._now)
        self._observe([event.at], batch)

    def _observe(self, times: Sequence[int], batch: Batch) -> None:
        """Take the event times of accepted records, and say so at once where the watermark comes to another day.

        Windows that read a sparse backlog would else learn of many days at a time, by the worker's clock: they would
        end them all in one fold.
        """
        day = self._day_of(self._mark.newest)
        self._mark.observe_all(times)
        if self._topic in TIME_TOPICS and self._day_of(self._mark.newest) != day:
            assert self._mark.value is not None
            batch.control(SourceState.ACTIVE, self._mark.value)

    def _day_of(self, newest: int | None) -> int | None:
        """Of the watermark that a newest event time gives."""
        return None if newest is None else (newest - self._config.out_of_order_ms) // DAY_MS

    def _take_order(self, message: Message, event: Event, part: OrderPart, batch: Batch) -> None:
        if part.status == "returned":
            batch.orders.add(EventKind.RETURNED, event.at, part.ordered_at, message.offset, part.lines)
        elif part.status == "placed":
            batch.orders.add(EventKind.ORDER, event.at, part.ordered_at, message.offset, part.lines)
            for waiting in self._orders.place(part.order, part.ordered_at, part.lines, self._now):
                self._counts["waiting"] -= 1
                self._cancel_after_all(waiting, batch)
        elif part.order in self._orders:
            ordered_at, taken = self._orders.cancel(part.order, part.lines)
            batch.orders.add(EventKind.CANCELLED, event.at, ordered_at, message.offset, taken)
        else:
            key, sealed = self._seal(message)
            self._orders.wait(
                Waiting(
                    part.order,
                    message.offset,
                    message.timestamp,
                    event.at,
                    part.lines,
                    list(event.ids),
                    key,
                    sealed,
                    self._now,
                )
            )
            self._counts["waiting"] += 1
            return
        self._counts["accepted"] += 1

    def _cancel_after_all(self, waiting: Waiting, batch: Batch) -> None:
        try:
            ordered_at, taken = self._orders.cancel(waiting.order, waiting.lines)
        except RejectedError as rejected:
            self._seen.discard(waiting.ids)
            self._bury(batch, waiting.offset, waiting.record_time, waiting.key, waiting.sealed, rejected)
            return
        batch.orders.add(EventKind.CANCELLED, waiting.at, ordered_at, waiting.offset, taken)
        self._counts["accepted"] += 1

    def _pass(self, record_time: int, batch: Batch) -> None:
        """Go on to the record time of a record, and forget what the horizon has left behind."""
        if record_time <= self._now:
            return
        self._now = record_time
        until = self._now - self._config.dedupe_ms
        self._seen.forget(until)
        for waiting in self._orders.forget(until):
            self._counts["waiting"] -= 1
            rejected = RejectedError(
                Reason.ORDER_UNKNOWN,
                f"order_id: its order did not come within {self._config.dedupe_days} days; send that first",
            )
            self._bury(batch, waiting.offset, waiting.record_time, waiting.key, waiting.sealed, rejected)

    def _partition_of(self, product: str) -> int:
        return partition_of(product, self._config.partitions)

    def _letter_id(self, offset: int) -> str:
        return f"{self._topic}/{self._partition}/{offset}"

    def _seal(self, message: Message) -> tuple[str | None, str]:
        """Sealed key (base64) and value of a record, as its dead letter carries them."""
        letter = self._letter_id(message.offset)
        key = message.key
        sealed_key = None if key is None or len(key) > MAX_KEY_BYTES else self._keys.seal(key, key_label(letter))
        # What was compressed may be larger here than its topic allows; its envelope must still fit trend.dlq.
        return sealed_key, self._keys.seal((message.value or b"")[:PLATFORM_MAX_BYTES], letter)

    def _bury(
        self, batch: Batch, offset: int, record_time: int, key: str | None, sealed: str, rejected: RejectedError
    ) -> None:
        letter = DeadLetter(
            dead_letter_id=self._letter_id(offset),
            reason=rejected.reason.code,
            message=rejected.message,
            stage="ingest",
            source=SourcePosition(topic=self._topic, partition=self._partition, offset=offset),
            record_time=record_time,
            key=key,
            sealed=sealed,
        )
        partition = self._partition % self._config.partitions
        batch.letters.append(Output("trend.dlq", partition, encode_json(letter), letter.dead_letter_id.encode()))
        for name in ("dead", f"dead.{letter.reason}"):
            self._counts[name] = self._counts.get(name, 0) + 1
