"""From a decoded platform record to a checked event: its ids, its time, and the rows that it becomes."""

from __future__ import annotations

import binascii
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from streams.calendars import Platform
from streams.ingest.batches import EventRow, PictureRow, PromotionRow, TextRow, event_row
from streams.ingest.config import IngestConfig
from streams.ingest.decoding import shown
from streams.ingest.orders import Line
from streams.ingest.privacy import Keyring
from streams.ingest.reasons import Reason, RejectedError
from streams.ingest.text import clean, personal
from streams.ingest.values import digits_of, epoch_ms, minor_units
from streams.records import PROMOTION_KINDS, EventKind, Modality, product_key
from streams.records.platform import Behavior, Image, InventoryLevel, Order, PlatformRecord, Product, Promotion, Review
from streams.stage import Message

_MAX_STOCK = 10**9
_MAX_LEAD_DAYS = 3650.0
_MAX_URI = 2048
_BEHAVIORS = {"view": EventKind.VIEW, "cart": EventKind.CART, "favourite": EventKind.FAVOURITE}


@dataclass(slots=True)
class OrderPart:
    """What the order memory needs of an order event."""

    order: bytes  # digest of platform and order id
    status: Literal["placed", "cancelled", "returned"]
    ordered_at: int
    lines: list[Line]


@dataclass(slots=True)
class Event:
    """One accepted platform event; an order's rows are made when the order memory has spoken."""

    ids: tuple[bytes, ...]  # digests; any of them seen before makes it a repeat
    at: int
    bound_at: int | None  # the time that may be too late; None for events that never are
    rows: list[EventRow] = field(default_factory=list)
    texts: list[TextRow] = field(default_factory=list)
    pictures: list[PictureRow] = field(default_factory=list)
    promotions: list[PromotionRow] = field(default_factory=list)
    order: OrderPart | None = None


class EventReader:
    """Reads the records of one platform topic; every method raises RejectedError."""

    def __init__(self, topic: str, config: IngestConfig, keyring: Keyring) -> None:
        self._topic = topic
        self._config = config
        self._keys = keyring
        readers: dict[str, Callable[[Any, Platform, Message], Event]] = {
            "orders": self._order,
            "behaviors": self._behavior,
            "reviews": self._review,
            "images": self._image,
            "products": self._product,
            "inventory.levels": self._level,
            "promotions": self._promotion,
        }
        self._read = readers[topic]

    def read(self, record: PlatformRecord, message: Message) -> Event:
        platform = self._config.platforms.get(record.platform)
        if platform is None:
            known = ", ".join(sorted(self._config.platforms))
            raise RejectedError(Reason.UNKNOWN_PLATFORM, f"platform: {shown(record.platform)} is not one of {known}")
        return self._read(record, platform, message)

    def _order(self, record: Order, platform: Platform, message: Message) -> Event:
        config, name = self._config, platform.name
        ordered_at = self._instant("ordered_at", record.ordered_at, message)
        status_at = None if record.status_at is None else self._instant("status_at", record.status_at, message)
        if record.currency != platform.currency:
            raise _currency(record.currency, platform)
        lines = []
        for i, line in enumerate(record.lines):
            quantity = line.quantity
            if not 1 <= quantity <= config.max_quantity:
                raise RejectedError(
                    Reason.BAD_QUANTITY,
                    f"lines[{i}].quantity: {shown(quantity)} is not between 1 and {config.max_quantity}",
                )
            price = minor_units(line.unit_price, platform.currency)
            if price is None or not 1 <= price <= config.max_price_minor:
                raise self._price(f"lines[{i}].unit_price", line.unit_price, price, platform)
            lines.append(Line(_product(record.platform, line.product_id), quantity, quantity * price))
        order = self._keys.digest("order", name, record.order_id)
        natural = order_event_id(self._keys, platform, record, order, status_at)
        at = ordered_at if record.status == "placed" or status_at is None else status_at
        return Event(
            (natural,) if record.event_id is None else (natural, self._keys.digest("event", name, record.event_id)),
            at,
            at if record.status == "returned" else ordered_at,
            order=OrderPart(order, record.status, ordered_at, lines),
        )

    def _behavior(self, record: Behavior, platform: Platform, message: Message) -> Event:
        at = self._instant("occurred_at", record.occurred_at, message)
        product = _product(platform.name, record.product_id)
        if record.event_id is None:
            user = self._keys.pseudonym("user", platform.name, record.user_id)
            ids = (self._keys.digest("behavior", product, user, record.kind, str(at)),)
        else:
            ids = (self._keys.digest("event", platform.name, record.event_id),)
        return Event(ids, at, at, [event_row(_BEHAVIORS[record.kind], product, at, message.offset)])

    def _review(self, record: Review, platform: Platform, message: Message) -> Event:
        at = self._instant("written_at", record.written_at, message)
        product = _product(platform.name, record.product_id)
        title, text = self._text("title", record.title), self._text("text", record.text)
        body = f"{title}. {text}" if title and text else title or text
        return Event(
            self._ids(record, record.review_id),
            at,
            None,
            [event_row(EventKind.REVIEW, product, at, message.offset, rating=record.rating)],
            [(product, Modality.TEXT, at, message.offset, body)] if body else [],
        )

    def _image(self, record: Image, platform: Platform, message: Message) -> Event:
        at = self._instant("captured_at", record.captured_at, message)
        product = _product(platform.name, record.product_id)
        if (record.content is None) == (record.uri is None):
            raise RejectedError(Reason.BAD_CONTENT, "content, uri: give exactly one of them")
        content, uri = b"", record.uri or ""
        if record.content is not None:
            try:
                content = binascii.a2b_base64(record.content, strict_mode=True)
            except ValueError as error:  # binascii's own, or a character beyond ASCII
                raise RejectedError(Reason.BAD_CONTENT, "content: not strict base64 (RFC 4648, padded)") from error
        if not content and not uri:
            raise RejectedError(Reason.BAD_CONTENT, "content, uri: empty; send the picture or where it lies")
        if len(uri) > _MAX_URI or len(record.content_type) > _MAX_URI:
            raise RejectedError(Reason.TOO_LARGE, f"uri, content_type: at most {_MAX_URI} characters")
        for name, value in (("uri", uri), ("image_id", record.image_id), ("content_type", record.content_type)):
            if personal(value):
                raise RejectedError(
                    Reason.BAD_CONTENT, f"{name}: holds an e-mail address; name pictures without people"
                )
        pictures: list[PictureRow] = []
        if record.kind == "image":
            pictures = [(product, at, message.offset, record.image_id, record.content_type, content, uri)]
        return Event(
            self._ids(record, record.image_id),
            at,
            None,
            [event_row(EventKind.IMAGE, product, at, message.offset)],
            pictures=pictures,
        )

    def _product(self, record: Product, platform: Platform, message: Message) -> Event:
        at = self._instant("updated_at", record.updated_at, message)
        product = _product(platform.name, record.product_id)
        if record.currency is not None and record.currency != platform.currency:
            raise _currency(record.currency, platform)
        price = self._optional_price("price", record.price, platform)
        category = " > ".join([part for part in map(clean, record.category) if part])
        if len(category) > self._config.max_text:
            raise RejectedError(Reason.TOO_LARGE, f"category: at most {self._config.max_text} characters together")
        title, about = self._text("title", record.title), self._text("description", record.description)
        body = f"{title}. {about}" if title and about else title or about
        return Event(
            self._ids(record, record.product_id, str(at)),
            at,
            None,
            [event_row(EventKind.CATALOGUE, product, at, message.offset, category=category, price=price)],
            [(product, Modality.TITLE, at, message.offset, body)] if body else [],
        )

    def _level(self, record: InventoryLevel, platform: Platform, message: Message) -> Event:
        at = self._instant("updated_at", record.updated_at, message)
        product = _product(platform.name, record.product_id)
        for name, value, bound in (
            ("on_hand", record.on_hand, _MAX_STOCK),
            ("on_order", record.on_order, _MAX_STOCK),
            ("lead_time_days", record.lead_time_days, _MAX_LEAD_DAYS),
        ):
            if value < 0:
                raise RejectedError(
                    Reason.NEGATIVE, f"{name}: {shown(value)} is below zero; send 0 when nothing is there"
                )
            if value > bound:
                raise RejectedError(Reason.BAD_QUANTITY, f"{name}: {shown(value)} is beyond {bound}")
        cost = self._optional_price("unit_cost", record.unit_cost, platform)
        stock = (float(record.on_hand), float(record.on_order), record.lead_time_days, cost)
        row = (EventKind.LEVEL, product, at, at, message.offset, 0, 0, 0, "", -1, *stock)
        return Event(self._ids(record, record.product_id, str(at)), at, None, [row])

    def _promotion(self, record: Promotion, platform: Platform, message: Message) -> Event:
        at = self._instant("announced_at", record.announced_at, message)
        product = _product(platform.name, record.product_id)
        starts, ends = _time("starts_at", record.starts_at), _time("ends_at", record.ends_at)
        if ends <= starts:
            raise RejectedError(
                Reason.BAD_TIME,
                f"ends_at: {shown(record.ends_at)} is not after starts_at; send depth 0 to take it back",
            )
        promotion = PROMOTION_KINDS.index(record.kind)
        row = (product, at, message.offset, promotion, _percent(record), starts, ends)
        return Event(
            self._ids(record, record.product_id, record.kind, str(starts), str(at)), at, None, promotions=[row]
        )

    def _ids(self, record: PlatformRecord, *natural: str) -> tuple[bytes]:
        if record.event_id is None:
            return (self._keys.digest(self._topic, record.platform, *natural),)
        return (self._keys.digest("event", record.platform, record.event_id),)

    def _instant(self, name: str, value: str | int, message: Message) -> int:
        at = _time(name, value)
        if at > message.timestamp + self._config.max_future_ms:
            hours = self._config.max_future_ms / 3_600_000
            raise RejectedError(
                Reason.FUTURE, f"{name}: {shown(value)} is over {hours:g} h after the record's own time"
            )
        return at

    def _text(self, name: str, value: str | None) -> str:
        if value is None:
            return ""
        if len(value) > self._config.max_text:
            raise RejectedError(Reason.TOO_LARGE, f"{name}: {len(value)} characters; at most {self._config.max_text}")
        return clean(value)

    def _optional_price(self, name: str, value: str | int | float | None, platform: Platform) -> int:
        if value is None:
            return -1
        price = minor_units(value, platform.currency)
        if price is None or not 1 <= price <= self._config.max_price_minor:
            raise self._price(name, value, price, platform)
        return price

    def _price(self, name: str, value: str | int | float, minor: int | None, platform: Platform) -> RejectedError:
        digits = digits_of(platform.currency)
        bound = self._config.max_price_minor
        problem = (
            f"is no plain amount with at most {digits} decimals ({platform.currency})"
            if minor is None
            else f"is not between 1 and {bound} minor units of {platform.currency}"
        )
        return RejectedError(Reason.BAD_PRICE, f"{name}: {shown(value)} {problem}")


def _time(name: str, value: str | int) -> int:
    at = epoch_ms(value)
    if at is None:
        raise RejectedError(
            Reason.BAD_TIME,
            f"{name}: {shown(value)} is neither RFC 3339 with an offset nor epoch milliseconds from 1970 to 2099",
        )
    return at


def _percent(record: Promotion) -> int:
    """Depth as a whole number of percent."""
    depth = record.depth
    if depth is None:
        if record.kind == "price":
            raise RejectedError(Reason.MISSING_FIELD, "depth: missing; a price change says by which share")
        return 100
    low = -1.0 if record.kind == "price" else 0.0
    if not low <= depth <= 1.0 or (record.kind == "price" and depth == 1.0):
        raise RejectedError(Reason.BAD_DEPTH, f"depth: {shown(depth)} is outside what a {record.kind} may have")
    return round(100 * depth)


def order_event_id(keys: Keyring, platform: Platform, record: Order, order: bytes, status_at: int | None) -> bytes:
    """Digest that an order event is remembered by; a placing without a time of its own is its order's."""
    if record.status == "placed" and status_at is None:
        return order
    when = "" if status_at is None else str(status_at)
    return keys.digest("order event", platform.name, record.status, when, record.order_id)


def _product(platform: str, product_id: str) -> str:
    if not product_id.isprintable():
        raise RejectedError(Reason.BAD_ID, "product_id: holds characters that cannot be printed; send a plain id")
    return product_key(platform, product_id)


def _currency(currency: str, platform: Platform) -> RejectedError:
    return RejectedError(
        Reason.BAD_CURRENCY, f"currency: {shown(currency)}; {platform.name} sells in {platform.currency} (settings)"
    )
