"""Olist: orders, reviews and catalogue of a Brazilian marketplace, read from a folder with its published CSV files.

Times in the files are local (America/Sao_Paulo). A review counts when it was answered, since only then its text was
there. Photos, if a folder of them is given, belong to other goods: they are handed out in turn and labelled simulated.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deploy.errors import SourceError
from deploy.sources import OLIST as PLATFORM
from deploy.sources import PlatformEvent, Span, describe_span
from deploy.sources.tables import instants

_FILES = ("orders", "order_items", "order_reviews", "products")
_PICTURES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}
_PRODUCT, _IMAGE, _ORDER, _CANCEL, _REVIEW = range(5)  # the order of events at the same instant


@dataclass(frozen=True)
class Olist:
    """Replays `olist_*_dataset.csv` of a folder. Raises SourceError when a file, or the folder of photos, is missing.

    An order without items and a review of one cannot be placed on a product: they are left out and counted. The files
    say that an order was cancelled, not when: the newest time stamp of the order stands for it.
    """

    platform = PLATFORM.name

    folder: Path
    span: Span = field(default_factory=Span)
    photos: Path | None = None

    @property
    def pictures(self) -> Path | None:
        return self.photos.resolve() if self.photos else None

    @property
    def estimate(self) -> int:
        return len(self._events)

    @cached_property
    def description(self) -> Mapping[str, object]:
        topics = pd.Series([event.topic for event in self._events]).value_counts()
        simulated = ["pictures (photos of other goods, handed out in turn)"] if self.photos else []
        return {
            "name": "Olist",
            "platform": PLATFORM.name,
            "about": "orders and reviews of a Brazilian marketplace",
            "source": self.folder.name,
            "licence": "CC BY-NC-SA 4.0",
            "span": describe_span(self._events[0].at, self._events[-1].at, PLATFORM),
            "currency": PLATFORM.currency,
            "rows": {str(topic): int(count) for topic, count in topics.sort_index().items()},
            "left_out": self._left_out,
            "simulated": simulated,
            "notes": [
                "a cancellation's time is the newest time stamp of its order",
                "a review's time is that of its answer",
                "products have no names in the data: the title is the category's",
            ],
        }

    def __iter__(self) -> Iterator[PlatformEvent]:
        return iter(self._events)

    @cached_property
    def _tables(self) -> dict[str, pd.DataFrame]:
        if not self.folder.is_dir():
            raise SourceError(f"{self.folder} is not a folder; give the one that holds olist_orders_dataset.csv")
        missing = [n for n in map(_file_name, _FILES) if not (self.folder / n).is_file()]
        if missing:
            raise SourceError(f"{self.folder} lacks {', '.join(missing)}; it must hold the published Olist files")
        try:
            return {n: pd.read_csv(self.folder / _file_name(n), dtype=_TYPES, keep_default_na=True) for n in _FILES}
        except (ValueError, OSError) as error:
            raise SourceError(f"{self.folder}: an Olist file cannot be read: {error}") from error

    @cached_property
    def _left_out(self) -> dict[str, int]:
        orders, items, reviews = (self._tables[n] for n in ("orders", "order_items", "order_reviews"))
        return {
            "orders_without_items": int((~orders["order_id"].isin(items["order_id"])).sum()),
            "reviews_of_orders_without_items": int((~reviews["order_id"].isin(items["order_id"])).sum()),
        }

    @cached_property
    def _events(self) -> list[PlatformEvent]:
        begin, end = self.span.instants(PLATFORM)
        placed = [row for row in [*self._orders(), *self._reviews()] if begin <= row[0] < end]
        placed.sort(key=lambda row: row[:3])
        if not placed:
            raise SourceError(f"{self.folder} has no events between {self.span.first} and {self.span.last}")
        debuts: dict[str, int] = {}
        for at, _, _, products, _ in placed:
            for product in products:
                debuts.setdefault(product, at)
        rows = [*self._catalogue(debuts), *self._photos(debuts), *placed]
        rows.sort(key=lambda row: row[:3])
        return [event for *_, event in rows]

    def _orders(self) -> Iterator[_Row]:
        orders, items = self._tables["orders"], self._tables["order_items"]
        grouped = items.groupby(["order_id", "product_id", "price"], sort=True, as_index=False).agg(
            quantity=("order_item_id", "size")
        )
        lines: dict[str, list[dict[str, Any]]] = {}
        for order, product, price, quantity in grouped.itertuples(index=False):
            line = {"product_id": product, "quantity": int(quantity), "unit_price": f"{float(price):.2f}"}
            lines.setdefault(order, []).append(line)
        bought = instants(orders["order_purchase_timestamp"], PLATFORM)
        stamps = ["order_approved_at", "order_delivered_carrier_date", "order_delivered_customer_date"]
        newest = np.max([bought, *(instants(orders[s], PLATFORM) for s in stamps)], axis=0)
        names = orders[["order_id", "customer_id", "order_status"]].itertuples(index=False)
        for (order, customer, status), at, last in zip(names, bought.tolist(), newest.tolist(), strict=True):
            if order not in lines:
                continue
            payload = {
                "order_id": order,
                "buyer_id": customer,
                "ordered_at": at,
                "currency": PLATFORM.currency,
                "status": "placed",
                "lines": lines[order],
            }
            products = [line["product_id"] for line in lines[order]]
            yield at, _ORDER, order, products, PlatformEvent.of(PLATFORM, "orders", order, at, payload)
            if status == "canceled":
                payload |= {"status": "cancelled", "status_at": last}
                yield last, _CANCEL, order, products, PlatformEvent.of(PLATFORM, "orders", order, last, payload)

    def _reviews(self) -> Iterator[_Row]:
        reviews = self._tables["order_reviews"]
        items, orders = self._tables["order_items"], self._tables["orders"]
        buyer = dict(zip(orders["order_id"], orders["customer_id"], strict=True))
        products = items.drop_duplicates(["order_id", "product_id"]).groupby("order_id")["product_id"].agg(list)
        answered = instants(reviews["review_answer_timestamp"], PLATFORM)
        columns = ["review_id", "order_id", "review_score", "review_comment_title", "review_comment_message"]
        for (review, order, score, title, text), at in zip(
            reviews[columns].itertuples(index=False), answered.tolist(), strict=True
        ):
            for product in products.get(order, []):
                # Ids repeat over orders, and one review speaks of each product of its order.
                name = f"{review}-{order}-{product}"
                payload = {
                    "product_id": product,
                    "review_id": name,
                    "buyer_id": buyer.get(order, order),
                    "rating": int(score),
                    "title": _text(title),
                    "text": _text(text),
                    "language": "pt",
                    "written_at": at,
                }
                yield at, _REVIEW, name, [product], PlatformEvent.of(PLATFORM, "reviews", product, at, payload)

    def _catalogue(self, debuts: dict[str, int]) -> Iterator[_Row]:
        products = self._tables["products"].set_index("product_id")
        columns = products[["product_category_name", "product_weight_g", "product_photos_qty"]]
        known = {name: row for name, *row in columns.itertuples()}
        for product, at in debuts.items():
            category, weight, photos = known.get(product, (None, None, None))
            named = _text(category) or "sem_categoria"
            payload = {
                "product_id": product,
                "title": named.replace("_", " "),
                "category": [named],
                "attributes": {"weight_g": _number(weight), "photos": _number(photos)},
                "updated_at": at,
            }
            yield at, _PRODUCT, product, [product], PlatformEvent.of(PLATFORM, "products", product, at, payload)

    def _photos(self, debuts: dict[str, int]) -> Iterator[_Row]:
        if self.photos is None:
            return
        if not self.photos.is_dir():
            raise SourceError(f"{self.photos} is not a folder of photos")
        found = sorted(p for p in self.photos.rglob("*") if p.suffix.lower() in _PICTURES)
        if not found:
            raise SourceError(f"{self.photos} holds no photos ({', '.join(_PICTURES)})")
        for turn, (product, at) in enumerate(debuts.items()):
            photo = found[turn % len(found)]
            payload = {
                "product_id": product,
                "image_id": f"simulated-{product}",
                "kind": "image",
                "captured_at": at,
                "content_type": _PICTURES[photo.suffix.lower()],
                "uri": photo.relative_to(self.photos).as_posix(),
                "simulated": True,
            }
            yield at, _IMAGE, product, [product], PlatformEvent.of(PLATFORM, "images", product, at, payload)


_Row = tuple[int, int, str, list[str], PlatformEvent]  # event time, rank, name, products, event
_TYPES: Mapping[Hashable, type[str]] = dict.fromkeys(("order_id", "customer_id", "product_id", "review_id"), str)


def _file_name(table: str) -> str:
    return f"olist_{table}_dataset.csv"


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: object) -> int | None:
    return int(value) if isinstance(value, (int, float)) and value == value else None
