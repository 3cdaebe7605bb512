"""Orders that need no second look, read many at a time.

Nearly every order is placed, well formed and new. Polls of them are decoded, checked and digested in columns; every
other record takes the way of a single event, which alone says what is accepted and why not. So nothing is rejected
here: a record that is not certainly plain is odd. Checks may be tighter than the contract's, never wider.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate, chain, repeat
from typing import Annotated, Literal

import msgspec
import numpy as np

from streams.calendars import Platform
from streams.codecs import Array
from streams.ingest.columns import PlainOrders
from streams.ingest.config import IngestConfig
from streams.ingest.events import order_event_id
from streams.ingest.orders import packed
from streams.ingest.privacy import Keyring, digests
from streams.ingest.products import Products
from streams.ingest.values import END, epoch_ms, minor_units
from streams.records import product_key
from streams.records.platform import Order
from streams.stage import Message, offsets, timestamps, values
from streams.topics import DAY_MS, PLATFORM_MAX_BYTES

_REMEMBERED = 100_000  # values of each kind
_MAX_ID = 256  # characters, as the contract has it
_CURRENCY = re.compile("[A-Z]{3}")
_NEVER = -(2**60)  # added to any time it stays below zero


class _Line(msgspec.Struct, frozen=True, gc=False):
    product_id: str
    quantity: Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
    unit_price: str | int | float


_READ_LINE = msgspec.json.Decoder(_Line).decode


# The currency without its pattern, which would cost as much as all the rest: it is compared with the platform's. Lines
# as they are written: most are written as one before was, and that is known by its bytes.
class _Placed(Order, frozen=True, kw_only=True, gc=False):
    ordered_at: str | Annotated[int, msgspec.Meta(ge=0, lt=END)]
    currency: str
    status: Literal["placed"]
    lines: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=1000)]  # type: ignore[assignment]


_BLANK = _Placed(platform="", order_id="", buyer_id="", ordered_at=0, currency="", status="placed", lines=[])


class PlainReader:
    """Reads polls of `orders`. What it remembers saves work and changes nothing."""

    def __init__(self, config: IngestConfig, keyring: Keyring, products: Products) -> None:
        self._config = config
        self._keys = keyring
        self._products = products
        self._decode = msgspec.json.Decoder(_Placed).decode
        self._instants = Instants()
        self._forget()

    def _forget(self) -> None:
        config, rest = self._config, (self._config, self._keys, self._products)
        self._offers = _Offers()
        self._nowhere = _Shop("", Platform(""), *rest, self._offers)
        self._shops = {
            (name, platform.currency): _Shop(name, platform, *rest, self._offers)
            for name, platform in config.platforms.items()
            if _CURRENCY.fullmatch(platform.currency)
        }

    def read(self, messages: Sequence[Message], now: int) -> PlainOrders:
        """Columns of a poll; `now` is the newest record time before it."""
        if len(self._offers.products) > _REMEMBERED:
            self._forget()
        records, unread = self._decoded(values(messages))
        odd = set(unread)
        shops = [self._shops.get((r.platform, r.currency), self._nowhere) for r in records]
        if self._nowhere in shops:
            odd.update([i for i, shop in enumerate(shops) if shop is self._nowhere])

        stamps = np.array(timestamps(messages), np.int64)
        latest = stamps + self._config.max_future_ms
        ordered_at = np.array(self._instants.read([r.ordered_at for r in records]), np.int64)
        odd.update(np.flatnonzero((ordered_at < 0) | (ordered_at >= END) | (ordered_at > latest)).tolist())

        lines = [len(r.lines) for r in records]
        line_start = np.append(0, np.cumsum(lines))
        written = map(bytes, chain.from_iterable([r.lines for r in records]))
        offers = chain.from_iterable(map(repeat, [shop.offers for shop in shops], lines))
        offer = np.array([known[line] for known, line in zip(offers, written, strict=True)], np.int64)
        if not offer.all():
            odd.update((np.searchsorted(line_start, np.flatnonzero(offer == 0), side="right") - 1).tolist())
        product, quantity, amount = self._offers.of(offer)

        order = digests([shop.order for shop in shops], [r.order_id for r in records])
        natural = order
        if [r for r in records if r.status_at is not None]:
            natural = self._naturals(records, shops, order, latest.tolist(), odd)
        ids, id_start = self._ids(records, shops, natural)
        now_at = np.maximum(np.maximum.accumulate(stamps), now)
        return PlainOrders(
            odd=odd,
            unread=unread,
            now=now_at.tolist(),
            offset=np.array(offsets(messages), np.int64),
            ordered_at=ordered_at,
            order=order,
            ids=ids,
            id_start=id_start,
            id_now=np.repeat(now_at, np.diff(id_start)),
            apart=natural is not order,
            lines=np.array(lines, np.int64),
            line_start=line_start.tolist(),
            product=product,
            quantity=quantity,
            amount=amount,
            placed=packed(now_at, ordered_at, line_start, product, quantity, amount),
        )

    def _decoded(self, values: list[bytes | None]) -> tuple[list[_Placed], list[int]]:
        """A record for each value, and which of them are blanks because there is nothing plain to read."""
        read = [value if value and len(value) <= PLATFORM_MAX_BYTES else b"" for value in values]
        records: list[_Placed] = []
        unread: list[int] = []
        rest = map(self._decode, read)
        while len(records) < len(read):
            try:
                records.extend(rest)  # keeps what it has read when one fails, and goes on behind that
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                unread.append(len(records))
                records.append(_BLANK)
        return records, unread

    def _naturals(
        self, records: list[_Placed], shops: list[_Shop], order: list[bytes], latest: list[int], odd: set[int]
    ) -> list[bytes]:
        """Ids of the orders as events; those with a time of their own may be odd by it."""
        natural = order.copy()
        for i, record in enumerate(records):
            if record.status_at is not None:
                at = epoch_ms(record.status_at)
                if at is None or at > latest[i]:
                    odd.add(i)
                else:
                    natural[i] = order_event_id(self._keys, shops[i].platform, record, order[i], at)
        return natural

    def _ids(
        self, records: list[_Placed], shops: list[_Shop], natural: list[bytes]
    ) -> tuple[list[bytes], Sequence[int]]:
        """What records are remembered by, as `EventReader` has it, and where the ids of each begin."""
        named = [r.event_id for r in records]
        events = digests([shop.event for shop in shops], [name or "" for name in named])
        if None not in named:
            return list(chain.from_iterable(zip(natural, events, strict=True))), range(0, 2 * len(records) + 1, 2)
        start = [0, *accumulate([1 if name is None else 2 for name in named])]
        pairs = zip(natural, events, named, strict=True)
        return [x for own, event, name in pairs for x in ((own,) if name is None else (own, event))], start


class _Offers:
    """What lines say, by number: a product, a quantity, and both times the price in minor units. Number 0 is none."""

    def __init__(self) -> None:
        self.products, self._quantities, self._amounts = (array("q", [0]) for _ in range(3))

    def add(self, product: int, quantity: int, amount: int) -> int:
        self.products.append(product)
        self._quantities.append(quantity)
        self._amounts.append(amount)
        return len(self.products) - 1

    def of(self, numbers: Array) -> tuple[Array, Array, Array]:
        """[numbers] product, quantity and amount of each."""
        columns = (self.products, self._quantities, self._amounts)
        product, quantity, amount = (np.frombuffer(column, np.int64)[numbers] for column in columns)
        return product, quantity, amount


class _Shop:
    """What orders of one platform have in common."""

    def __init__(
        self, name: str, platform: Platform, config: IngestConfig, keyring: Keyring, products: Products, offers: _Offers
    ) -> None:
        self.platform = platform
        self.order = keyring.primed("order", platform.name)
        self.event = keyring.primed("event", platform.name)
        self.offers = _Written(self._read)
        self._name, self._products, self._all = name, products, offers
        self._config = config

    def _read(self, line: bytes) -> int:
        """Number of a line's offer; 0 if the line is not plain."""
        try:
            product_id, quantity, unit_price = msgspec.structs.astuple(_READ_LINE(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return 0
        price = minor_units(unit_price, self.platform.currency)
        most = min(self._config.max_price_minor, 2**31)  # times a quantity it must fit
        if price is None or not 1 <= price <= most or quantity > self._config.max_quantity:
            return 0
        if not 1 <= len(product_id) <= _MAX_ID or not product_id.isprintable():
            return 0
        return self._all.add(self._products[product_key(self._name, product_id)], quantity, quantity * price)


class _Written(dict[bytes, int]):
    """Numbers of the offers of one platform's lines, by what was written."""

    def __init__(self, read: Callable[[bytes], int]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, line: bytes) -> int:
        number = self._read(line)
        if number:
            self[line] = number
        return number


class Instants:
    """`epoch_ms` in parts that many times share: up to the minute, the second, what follows."""

    def __init__(self) -> None:
        self._minutes = _Parts("{}00Z", 0)
        self._seconds = _Parts("1970-01-01T00:00:{}Z", 0)
        self._rests = _Parts("1970-01-02T00:00:00{}", DAY_MS)  # an offset may lie before that

    def read(self, values: Sequence[str | int]) -> list[int]:
        """UTC ms; below zero or beyond the calendars where `epoch_ms` may find none."""
        minutes, seconds, rests = self._minutes, self._seconds, self._rests
        return [
            minutes[value[:17]] + seconds[value[17:19]] + rests[value[19:]] if isinstance(value, str) else value
            for value in values
        ]


class _Parts(dict[str, int]):
    """UTC ms that a part of an RFC 3339 text adds."""

    def __init__(self, whole: str, base: int) -> None:
        super().__init__()
        self._whole, self._base = whole, base

    def __missing__(self, part: str) -> int:
        at = epoch_ms(self._whole.format(part))
        if at is None:
            return _NEVER
        if len(self) >= _REMEMBERED:
            self.clear()
        self[part] = at - self._base
        return at - self._base
