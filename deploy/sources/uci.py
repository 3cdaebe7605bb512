"""UCI Online Retail: invoice lines of a UK gift shop, from one file in the published layout (parquet, csv or xlsx).

Times in the file are local (Europe/London). An invoice whose number begins with C takes units back and does not say of
which order: they are taken off the buyer's newest orders of the same product before it. Within the dedupe horizon of
ingest that is a cancellation, later a return, which counts as no less demand (docs/forecast.md).
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deploy.errors import SourceError
from deploy.sources import UCI as PLATFORM
from deploy.sources import PlatformEvent, Span, describe_span
from deploy.sources.tables import instants, money
from streams.calendars import DAY

CODE = r"^\d{5}[A-Za-z]{0,3}$"
CODE_RULE = (
    "stock codes other than five digits with at most three letters (POST, M, BANK CHARGES and the like) are no "
    "products and are left out"
)
CANCEL_MS = 7 * DAY  # ingest knows an order for so long; what is taken back later is a return
_COLUMNS = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID"]
_PRODUCT, _ORDER, _BACK = range(3)  # the order of events at the same instant


@dataclass(frozen=True)
class UciRetail:
    """Replays one file. Raises SourceError when it is missing or lacks a column.

    `products`: at most so many, drawn evenly by a hash of their code; None takes all.
    """

    platform = PLATFORM.name
    pictures = None

    file: Path
    products: int | None = None
    span: Span = field(default_factory=Span)

    @property
    def estimate(self) -> int:
        return len(self._events)

    @cached_property
    def description(self) -> Mapping[str, object]:
        topics = pd.Series([event.topic for event in self._events]).value_counts()
        return {
            "name": "UCI Online Retail",
            "platform": PLATFORM.name,
            "about": "invoice lines of a UK gift shop, 2010-12 to 2011-12",
            "source": self.file.name,
            "licence": "CC BY 4.0",
            "span": describe_span(self._events[0].at, self._events[-1].at, PLATFORM),
            "currency": PLATFORM.currency,
            "products": int(self._lines["product"].nunique()),
            "rows": {str(topic): int(count) for topic, count in topics.sort_index().items()},
            "left_out": self._left_out,
            "simulated": [],
            "notes": [
                CODE_RULE,
                "units taken back by C invoices are taken off the buyer's newest orders before: cancelled within "
                f"{CANCEL_MS // DAY} days, returned later",
                *([f"{self.products} products, drawn evenly by a hash of their code"] if self.products else []),
            ],
        }

    def __iter__(self) -> Iterator[PlatformEvent]:
        return iter(self._events)

    @cached_property
    def _read(self) -> tuple[pd.DataFrame, dict[str, int]]:
        """Lines of products with their UTC ms, in order of time, and what was left out."""
        table = _read_file(self.file)
        code = table["StockCode"].astype(str).str.strip().str.upper()
        is_product = code.str.match(CODE)
        is_free = table["UnitPrice"] <= 0
        left_out = {
            "lines_of_codes_that_are_no_product": int((~is_product).sum()),
            "codes_that_are_no_product": int(code[~is_product].nunique()),
            "lines_without_a_price": int((is_product & is_free).sum()),
        }
        lines = pd.DataFrame(
            {
                "at": instants(table["InvoiceDate"], PLATFORM),
                "invoice": table["InvoiceNo"].astype(str).str.strip(),
                "product": code,
                "title": table["Description"],
                "quantity": table["Quantity"].astype(np.int64),
                "cents": np.rint(table["UnitPrice"].to_numpy(np.float64) * 100).astype(np.int64),
                "buyer": table["CustomerID"].fillna(-1).astype(np.int64),
            }
        )[is_product & ~is_free]
        lines = lines[lines["cents"] > 0]
        if self.products is not None:
            codes = sorted(lines["product"].unique(), key=lambda name: (zlib.crc32(name.encode()), name))
            lines = lines[lines["product"].isin(codes[: self.products])]
        begin, end = self.span.instants(PLATFORM)
        inside = lines[(lines["at"] >= max(begin, 0)) & (lines["at"] < end)]  # -1: no time is given
        if not len(inside):
            raise SourceError(f"{self.file} has no sales between {self.span.first} and {self.span.last}")
        return inside.sort_values(["at", "invoice"], kind="stable", ignore_index=True), left_out

    @property
    def _lines(self) -> pd.DataFrame:
        return self._read[0]

    @cached_property
    def _left_out(self) -> dict[str, int]:
        back = sum(quantity for rows in self._taken_back[0].values() for _, quantity, _ in rows)
        return {**self._read[1], "units_taken_back": back, "units_taken_back_of_no_order": self._taken_back[1]}

    @cached_property
    def _orders(self) -> pd.DataFrame:
        """What was ordered: one line for each invoice, product and price."""
        sold = self._lines[(self._lines["quantity"] > 0) & ~self._lines["invoice"].str.startswith("C")]
        return sold.groupby(["invoice", "product", "cents"], sort=False, as_index=False).agg(
            at=("at", "min"), quantity=("quantity", "sum"), buyer=("buyer", "first")
        )

    @cached_property
    def _taken_back(self) -> tuple[dict[tuple[int, str], list[tuple[str, int, int]]], int]:
        """(time, invoice it is taken off) -> product, units, price; and the units for which no order was found."""
        orders: dict[tuple[int, str], list[list[Any]]] = defaultdict(list)  # in order of time
        sold = self._orders.sort_values("at", kind="stable")
        for buyer, product, *order in _tuples(sold, "buyer", "product", "at", "invoice", "cents", "quantity"):
            orders[(buyer, product)].append(order)
        found: dict[tuple[int, str], list[tuple[str, int, int]]] = defaultdict(list)
        unmatched = 0
        back = self._lines[self._lines["invoice"].str.startswith("C") & (self._lines["quantity"] < 0)]
        for at, buyer, product, quantity in _tuples(back, "at", "buyer", "product", "quantity"):
            left = -quantity
            for order in reversed(orders.get((buyer, product), []) if buyer >= 0 else []):
                units = min(left, order[3]) if order[0] <= at else 0
                if units:
                    found[(at, order[1])].append((product, units, order[2]))
                    order[3] -= units
                    left -= units
            unmatched += left
        return dict(found), unmatched

    @cached_property
    def _events(self) -> list[PlatformEvent]:
        rows: list[tuple[int, int, str, PlatformEvent]] = []
        orders = self._orders
        placed: dict[str, dict[str, Any]] = {}
        for invoice, lines in orders.groupby("invoice", sort=False):
            at, buyer = int(lines["at"].min()), int(lines["buyer"].iloc[0])
            name = str(invoice)
            placed[name] = {
                "order_id": name,
                "buyer_id": f"customer-{buyer}" if buyer >= 0 else f"guest-{name}",
                "ordered_at": at,
                "currency": PLATFORM.currency,
                "status": "placed",
                "lines": [_line(*line) for line in _tuples(lines, "product", "quantity", "cents")],
            }
            rows.append((at, _ORDER, name, PlatformEvent.of(PLATFORM, "orders", name, at, placed[name])))
        for (at, name), taken in self._taken_back[0].items():
            order = placed[name]
            kind = "cancelled" if at - order["ordered_at"] <= CANCEL_MS else "returned"
            payload = order | {"status": kind, "status_at": at, "lines": [_line(*line) for line in taken]}
            rows.append((at, _BACK, name, PlatformEvent.of(PLATFORM, "orders", name, at, payload)))
        first = orders.loc[orders.groupby("product")["at"].idxmin()]
        titles = self._titles
        for product, at, cents in _tuples(first, "product", "at", "cents"):
            payload = {
                "product_id": product,
                "title": titles.get((product, at), product),
                "category": [],
                "price": money(cents),
                "currency": PLATFORM.currency,
                "updated_at": at,
            }
            rows.append((at, _PRODUCT, product, PlatformEvent.of(PLATFORM, "products", product, at, payload)))
        rows.sort(key=lambda row: row[:3])
        return [event for *_, event in rows]

    @cached_property
    def _titles(self) -> dict[tuple[str, int], str]:
        """By product and time: what the line of that time calls it."""
        named = self._lines[self._lines["title"].notna()]
        return {
            (p, int(at)): str(t).strip() for p, at, t in zip(named["product"], named["at"], named["title"], strict=True)
        }


def _read_file(file: Path) -> pd.DataFrame:
    if not file.is_file():
        raise SourceError(f"{file} is not a file; give Online Retail as .parquet, .csv or .xlsx")
    try:
        if file.suffix == ".parquet":
            table = pd.read_parquet(file)
        elif file.suffix == ".xlsx":
            table = pd.read_excel(file, dtype={"InvoiceNo": str, "StockCode": str})
        elif file.suffix == ".csv":
            table = pd.read_csv(file, dtype={"InvoiceNo": str, "StockCode": str}, encoding="latin-1")
        else:
            raise SourceError(f"{file} ends in {file.suffix or 'nothing'}; .parquet, .csv and .xlsx can be read")
    except (ValueError, OSError) as error:
        raise SourceError(f"{file} cannot be read: {error}") from error
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing:
        raise SourceError(f"{file} lacks the columns {', '.join(missing)} of Online Retail")
    return table[_COLUMNS]


def _tuples(table: pd.DataFrame, *columns: str) -> Iterator[Any]:
    """Rows of plain Python values."""
    return zip(*(table[name].tolist() for name in columns), strict=True)


def _line(product: str, quantity: int, cents: int) -> dict[str, Any]:
    return {"product_id": product, "quantity": quantity, "unit_price": money(cents)}
