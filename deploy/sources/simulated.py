"""What a data set of sales lacks, made up from its past sales alone: stock levels, reviews, pictures.

Everything here is simulated and says so in its record (`"simulated": true`). An event of a day depends only on sales of
the days before it, and its random numbers only on the seed and the names of what it is about, so leaving out all sales
from an instant on leaves every simulated event before it as it was.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from streams.calendars import DAY, HOUR, Calendar

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MOOD_DAYS = 14
_RATE_DAYS = 28


@dataclass(frozen=True)
class Simulation:
    """How much is made up, and how."""

    seed: int = 20170101
    review_share: float = 0.015  # of order lines that lead to a review
    level_days: int = 3  # between two stock counts of a product, besides deliveries
    picture_again_share: float = 0.1  # of products that get a second picture
    picture_pixels: int = 128


@dataclass(frozen=True)
class Sales:
    """Order lines in time order."""

    at: Ints  # [lines] UTC ms
    product: Ints  # [lines] index of the product
    order: Ints  # [lines] number of the order
    buyer: Ints  # [lines]
    quantity: Ints  # [lines]
    cents: Ints  # [lines] price of one unit, minor units
    names: Sequence[str]  # [products] product_id
    numbers: Ints  # [products] what random numbers of a product hang on

    def before(self, instant: int) -> Sales:
        end = int(np.searchsorted(self.at, instant))
        lines = ("at", "product", "order", "buyer", "quantity", "cents")
        return replace(self, **{name: getattr(self, name)[:end] for name in lines})


@dataclass(frozen=True)
class DailySales:
    """Units per product and day of the calendar, and sums over the days before."""

    first: int  # day index of column 0
    units: Ints  # [products, days]
    total: Ints  # [products, days + 1] units before each day
    born: Ints  # [products] column of the first sale, or beyond the last column

    @staticmethod
    def of(sales: Sales, calendar: Calendar, end: int) -> DailySales:
        """The days from the first sale to the one that `end` (UTC ms) closes, also where nothing is sold any more."""
        products = len(sales.names)
        if not sales.at.size:
            empty = np.zeros((products, 0), np.int64)
            return DailySales(0, empty, np.zeros((products, 1), np.int64), np.full(products, 1, np.int64))
        day = calendar.day(sales.at)
        first, last = int(day[0]), int(calendar.day(end - 1))
        units = np.zeros((products, last - first + 1), np.int64)
        np.add.at(units, (sales.product, day - first), sales.quantity)
        total = np.zeros((products, units.shape[1] + 1), np.int64)
        np.cumsum(units, axis=1, out=total[:, 1:])
        sold = units > 0
        born = np.where(sold.any(axis=1), sold.argmax(axis=1), units.shape[1] + 1)
        return DailySales(first, units, total, born)

    def sum_before(self, product: Ints, column: Ints, days: int) -> Ints:
        """Units in the `days` days before each column."""
        end = np.clip(column, 0, self.units.shape[1])
        begin = np.clip(column - days, 0, self.units.shape[1])
        return self.total[product, end] - self.total[product, begin]

    def growth(self, product: Ints, column: Ints) -> Floats:
        """log2 of the last fortnight's units to those of the one before it, before each column; near 0 for few."""
        recent = self.sum_before(product, column, _MOOD_DAYS)
        earlier = self.sum_before(product, column, 2 * _MOOD_DAYS) - recent
        young = column - self.born[product] < 2 * _MOOD_DAYS
        return np.asarray(np.where(young, 0.0, np.log2((recent + 3.0) / (earlier + 3.0))), np.float64)


def uniform(seed: int, stream: int, *names: npt.ArrayLike) -> Floats:
    """Numbers in (0, 1) that depend on the seed, the stream and the names alone (splitmix64's finaliser)."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        mixed = _mix(np.uint64(seed) * _GOLDEN + np.asarray(stream, np.uint64))
        for name in names:
            mixed = _mix((mixed + _GOLDEN) ^ np.asarray(name).astype(np.uint64))
        mixed = _mix(mixed)
    return np.asarray(((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53, np.float64)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)), np.uint64)


# --------------------------------------------------------------------------------------------------------------------
# Stock levels


@dataclass(frozen=True)
class Levels:
    at: Ints  # [rows] UTC ms, in time order
    product: Ints
    on_hand: Ints
    on_order: Ints
    lead_days: Ints
    cost_cents: Ints


@dataclass(frozen=True)
class FirstStock:
    """What each product begins with."""

    on_hand: Ints  # [products]
    lead_days: Ints  # [products] 2 to 10
    margin: Floats  # [products] cost as a share of the price


def first_stock(sales: Sales, how: Simulation) -> FirstStock:
    return FirstStock(
        20 + np.floor(uniform(how.seed, 5, sales.numbers) * 60).astype(np.int64),
        2 + np.floor(uniform(how.seed, 1, sales.numbers) * 9).astype(np.int64),
        0.55 + 0.25 * uniform(how.seed, 7, sales.numbers),
    )


def simulate_levels(sales: Sales, daily: DailySales, calendar: Calendar, how: Simulation) -> Levels:
    """Counts of a stock that is filled up at intervals by the mean of past sales, more or less well.

    A count is taken in the early morning and knows the sales up to the day before. Stock never shows less than one
    unit: what was really sold was there to be sold.
    """
    products, days = daily.units.shape
    everyone = np.arange(products)
    first = first_stock(sales, how)
    lead = first.lead_days
    period = 5 + np.floor(uniform(how.seed, 2, sales.numbers) * 6).astype(np.int64)  # 5 to 10 days
    phase = np.floor(uniform(how.seed, 3, sales.numbers) * 1000).astype(np.int64)
    minute = np.floor(uniform(how.seed, 4, sales.numbers) * 120).astype(np.int64)  # after four o'clock
    paid = np.zeros(products, np.int64)  # cents of the newest price before the day
    on_hand, on_order = first.on_hand, np.zeros(products, np.int64)
    due = np.zeros((products, days + int(lead.max(initial=0)) + 1), np.int64)
    line_day = calendar.day(sales.at) - daily.first if sales.at.size else np.zeros(0, np.int64)
    rows: list[tuple[Ints, ...]] = []
    for column in range(days):
        if column:
            yesterday = slice(*np.searchsorted(line_day, [column - 1, column]))
            paid[sales.product[yesterday]] = sales.cents[yesterday]
            on_hand = np.maximum(on_hand - daily.units[:, column - 1], 1)
        on_hand, on_order = on_hand + due[:, column], on_order - due[:, column]
        alive = daily.born < column
        age = np.clip(column - daily.born, 1, _RATE_DAYS)
        rate = daily.sum_before(everyone, np.full(products, column), _RATE_DAYS) / age
        judgement = 0.75 + 0.8 * uniform(how.seed, 6, sales.numbers, np.full(products, daily.first + column))
        wanted = np.ceil(rate * (lead + period) * judgement).astype(np.int64) - on_hand - on_order
        turn = alive & ((daily.first + column + phase) % period == 0)
        ordered = np.where(turn & (wanted > 0), wanted, 0)
        due[everyone, column + lead] += ordered
        on_order = on_order + ordered
        seen = alive & (((daily.first + column + phase) % how.level_days == 0) | (ordered > 0) | (due[:, column] > 0))
        who = np.flatnonzero(seen)
        if who.size:
            at = calendar.start(daily.first + column) + 4 * HOUR + minute[who] * 60_000
            cost = (paid[who] * first.margin[who]).astype(np.int64)
            rows.append((at, who, on_hand[who], on_order[who], lead[who], np.maximum(cost, 1)))
    columns = [np.concatenate(parts) for parts in zip(*rows, strict=True)] if rows else [np.zeros(0, np.int64)] * 6
    order = np.argsort(columns[0], kind="stable")
    return Levels(*(c[order] for c in columns))


# --------------------------------------------------------------------------------------------------------------------
# Reviews


@dataclass(frozen=True)
class Reviews:
    at: Ints  # [rows] UTC ms, in time order
    line: Ints  # [rows] order line that it is about
    rating: Ints  # [rows] 1 to 5
    words: Floats  # [rows, 3] which of the template's parts


def simulate_reviews(sales: Sales, daily: DailySales, calendar: Calendar, how: Simulation) -> Reviews:
    """One to thirteen days after a share of the order lines: a rating whose mood follows the product's past growth."""
    number = sales.numbers[sales.product]
    line = np.flatnonzero(uniform(how.seed, 20, sales.order, number) < how.review_share)
    number, basket, product = number[line], sales.order[line], sales.product[line]
    wait = DAY + (uniform(how.seed, 21, basket, number) * 12 * DAY).astype(np.int64)
    at = sales.at[line] + wait + 2 * HOUR  # two hours: the day after, even where a day has 25
    growth = daily.growth(product, calendar.day(at) - daily.first) if line.size else np.zeros(0)
    # The sum of twelve uniform numbers is nearly normal, and exactly the same everywhere.
    noise = sum(uniform(how.seed, 30 + i, basket, number) for i in range(12)) - 6.0
    rating = np.clip(np.rint(3.8 + 1.2 * np.tanh(growth) + 0.9 * noise), 1, 5).astype(np.int64)
    words = np.stack([uniform(how.seed, 50 + i, basket, number) for i in range(3)], axis=1)
    order = np.argsort(at, kind="stable")
    return Reviews(at[order], line[order], rating[order], words[order])


_OPENINGS = {
    1: (
        "Disappointed this time.",
        "Not what I hoped for.",
        "I will buy another brand next week.",
        "Something has changed, and not for the better.",
        "Two of the last three went to waste.",
    ),
    2: (
        "It is all right.",
        "Does the job.",
        "Neither good nor bad.",
        "We buy it when it is on offer.",
        "About what one expects.",
    ),
    3: (
        "Really pleased with it.",
        "Everyone at home asks for it.",
        "We get through more of it every week.",
        "A friend told me about it, and she was right.",
        "Best one on the shelf.",
    ),
}
_MIDDLES = {
    1: ("The {thing} was poor", "The {thing} did not keep", "I would not pay that for this {thing} again"),
    2: ("The {thing} was fine", "The {thing} is as always", "This {thing} is one of many"),
    3: ("The {thing} was excellent", "This {thing} keeps well", "I came back for the {thing}"),
}
_ENDINGS = {
    1: ("and the shop had little of it left.", "and the price is too high.", "so this was the last time."),
    2: ("for the price.", "and easy to find.", "nothing more to say."),
    3: ("and worth every cent.", "and we have put it on the list.", "so we took two."),
}


def write_review(rating: int, words: npt.ArrayLike, thing: str) -> str:
    """A short text in the mood of the rating; `words` are three numbers in (0, 1) that choose its parts."""
    mood = 1 if rating <= 2 else 2 if rating == 3 else 3
    parts = (_OPENINGS[mood], _MIDDLES[mood], _ENDINGS[mood])
    opening, middle, ending = (
        part[int(w * len(part))] for part, w in zip(parts, np.asarray(words, np.float64).tolist(), strict=True)
    )
    return f"{opening} {middle.format(thing=thing.lower().split('(')[0].strip())} {ending}"


# --------------------------------------------------------------------------------------------------------------------
# Pictures


@dataclass(frozen=True)
class Pictures:
    """Second pictures; the first one is taken when the product first shows."""

    at: Ints  # [rows] UTC ms, in time order
    product: Ints
    growth: Floats


def simulate_pictures(sales: Sales, daily: DailySales, calendar: Calendar, how: Simulation) -> Pictures:
    days = daily.units.shape[1]
    wait = 45 + np.floor(uniform(how.seed, 61, sales.numbers) * 180).astype(np.int64)
    column = daily.born + wait
    chosen = np.flatnonzero((uniform(how.seed, 60, sales.numbers) < how.picture_again_share) & (column < days))
    begin = calendar.midnights[daily.first + column[chosen]] if chosen.size else np.zeros(0, np.int64)
    at = begin + 9 * HOUR
    order = np.argsort(at, kind="stable")
    return Pictures(at[order], chosen[order], daily.growth(chosen, column[chosen])[order])


def choose_banner(growth: float) -> str:
    return "BEST SELLER" if growth > 0.3 else "ON OFFER" if growth < -0.3 else "NEW PACK"


def draw_packshot(title: str, category: str, banner: str, number: int, how: Simulation) -> bytes:
    """JPEG of a box with a label: the hue follows the category, the shape the product. A few kB."""
    side = how.picture_pixels
    hue = int(uniform(how.seed, 70, sum(category.encode()) * 131 + len(category)) * 255)
    width, height, tilt, light = (float(uniform(how.seed, 71 + i, number)) for i in range(4))
    sheet = Pillow.new("HSV", (side, side), (hue, 18, 250))
    draw = ImageDraw.Draw(sheet)
    half = side * (0.22 + 0.16 * width)
    top = side * (0.08 + 0.2 * height)
    left, right, bottom, lean = side / 2 - half, side / 2 + half, side * 0.92, side * 0.1 * (tilt - 0.5)
    body = [(left + lean, top), (right + lean, top), (right, bottom), (left, bottom)]
    draw.polygon(body, fill=(hue, 170, 120 + int(90 * light)))
    draw.polygon(
        [(right + lean, top), (right + lean + 8, top - 5), (right + 8, bottom - 5), (right, bottom)], (hue, 190, 90)
    )
    label = (left + 4, side * 0.38, right - 4, side * 0.72)
    draw.rectangle(label, fill=(0, 0, 252))
    small = ImageFont.load_default(side / 13)
    for row, words in enumerate(_wrap(title, max(6, int((right - left) / (side / 20))), 3)):
        draw.text((left + 7, side * 0.4 + row * side * 0.1), words, fill=(0, 0, 40), font=small)
    if banner:
        draw.rectangle((0, 0, side, side * 0.12), fill=((hue + 128) % 256, 200, 200))
        draw.text((5, 2), banner, fill=(0, 0, 255), font=small)
    out = io.BytesIO()
    sheet.convert("RGB").save(out, "JPEG", quality=80)
    return out.getvalue()


def _wrap(text: str, width: int, rows: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()[:width]
    return lines[:rows]


def encode_picture(picture: bytes) -> str:
    return base64.b64encode(picture).decode()
