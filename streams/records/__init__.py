"""What crosses a topic: one type per arrow of docs/architecture.md, and the words that all of them share.

`platform` has the events that come in and `outside` what leaves trendstream, both JSON with schemas in docs/contracts/;
`inside` has the Arrow batches between stages.

Conventions: a product key is `platform:product_id`; instants are UTC epoch milliseconds (int64); money is integer minor
units; an unknown number is NaN (float64 columns) or -1 (price columns), an unknown text is "".
"""

from __future__ import annotations

import enum

VERSION = 1

VECTOR = 64  # dimensions of a projected text or picture vector
HORIZONS = (1, 7, 28)  # days; also the right ends of the delay buckets (0,1], (1,7], (7,28]
DELAYS = len(HORIZONS)
DAYS = 56  # closed day buckets in a window
AHEAD = max(HORIZONS)  # days of the longest horizon
HOURS = 48  # hour buckets in a window
CHANNELS = ("units", "orders", "returned", "revenue", "views", "carts", "favourites", "reviews", "rating_sum")
QUANTILES = (0.1, 0.5, 0.9, 0.95)
COMPONENTS = 8  # principal components of phi that a head may use
PROMOTION_KINDS = ("price", "display", "mailer", "offer")
KNOWN = ("holiday", *PROMOTION_KINDS)  # what is known of a day before it comes


class Trend(enum.IntEnum):
    """Trend classes, in the order of every probability array."""

    SURGING = 0
    RISING = 1
    STEADY = 2
    FALLING = 3


CLASSES = tuple(c.name.lower() for c in Trend)
THRESHOLDS = ("surge", "rise", "fall")  # units over the horizon; -1 where there is none


class SalesClass(enum.IntEnum):
    FAST = 0
    SLOW = 1
    SPORADIC = 2
    NEW = 3


class EventKind(enum.IntEnum):
    ORDER = 1
    CANCELLED = 2
    RETURNED = 3
    VIEW = 4
    CART = 5
    FAVOURITE = 6
    REVIEW = 7
    IMAGE = 8
    CATALOGUE = 9
    LEVEL = 10


class Modality(enum.IntEnum):
    """What a vector was made from; also the order of a window's mask bits (1 << value)."""

    TEXT = 0
    IMAGE = 1
    TITLE = 2
    CATALOGUE = 3
    LEVEL = 4
    BEHAVIOR = 5


class SourceState(enum.IntEnum):
    ACTIVE = 1
    IDLE = 2


class WindowKind(enum.IntEnum):
    CLOSE = 0
    LIVE = 1


_CLOSE = int(WindowKind.CLOSE)  # an enum's member takes as long to look up as the rest of a score's id to make

NO_WATERMARK = -(2**62)  # a source that is registered and has shown no event time yet
CONTRIBUTIONS = ("text", "image", "catalogue", "behaviour")  # of a score, by modality


def product_key(platform: str, product_id: str) -> str:
    return f"{platform}:{product_id}"


def split_product(key: str) -> tuple[str, str]:
    platform, _, product_id = key.partition(":")
    return platform, product_id


def window_id(product: str, end: int, kind: int, revision: int) -> str:
    """`<product>@<end>` for a close window, with `.<revision>` for the live ones after it."""
    return f"{product}@{end}" if kind == _CLOSE else f"{product}@{end}.{revision}"
