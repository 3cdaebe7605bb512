"""Platform records: JSON in, one per event. Unknown fields are allowed and ignored."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Instant = Annotated[str | int, msgspec.Meta(description="RFC 3339 with an offset, or integer epoch milliseconds")]
Money = Annotated[str | int | float, msgspec.Meta(description="decimal text or a number, in units of the currency")]
Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Currency = Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$", description="ISO 4217")]


class PlatformRecord(msgspec.Struct, frozen=True, kw_only=True):
    platform: Identifier
    event_id: Identifier | None = None


class OrderLine(msgspec.Struct, frozen=True, kw_only=True):
    product_id: Identifier
    quantity: int
    unit_price: Money


class Order(PlatformRecord, frozen=True, kw_only=True):
    order_id: Identifier
    buyer_id: Identifier
    ordered_at: Instant
    currency: Currency
    status: Literal["placed", "cancelled", "returned"]
    status_at: Instant | None = None
    region: str | None = None
    lines: Annotated[list[OrderLine], msgspec.Meta(min_length=1, max_length=1000)]


class Behavior(PlatformRecord, frozen=True, kw_only=True):
    product_id: Identifier
    user_id: Identifier
    kind: Literal["view", "cart", "favourite"]
    occurred_at: Instant


class Review(PlatformRecord, frozen=True, kw_only=True):
    product_id: Identifier
    review_id: Identifier
    buyer_id: Identifier
    rating: Annotated[int, msgspec.Meta(ge=1, le=5)]
    title: str | None = None
    text: str | None = None
    language: str | None = None
    written_at: Instant


class Image(PlatformRecord, frozen=True, kw_only=True):
    product_id: Identifier
    image_id: Identifier
    kind: Literal["image", "video"]
    captured_at: Instant
    content_type: str
    content: Annotated[str, msgspec.Meta(description="base64; this or uri")] | None = None
    uri: str | None = None


class Product(PlatformRecord, frozen=True, kw_only=True):
    product_id: Identifier
    title: str
    description: str | None = None
    category: Annotated[list[str], msgspec.Meta(description="path from the widest to the narrowest")]
    brand: str | None = None
    price: Money | None = None
    currency: Currency | None = None
    attributes: dict[str, str | int | float | bool | None] | None = None
    updated_at: Instant


class InventoryLevel(PlatformRecord, frozen=True, kw_only=True):
    product_id: Identifier
    on_hand: int
    on_order: int
    lead_time_days: float
    unit_cost: Money | None = None
    updated_at: Instant


class Promotion(PlatformRecord, frozen=True, kw_only=True):
    """Counts from `announced_at` on; announced again with the same kind and start, the newer one holds."""

    product_id: Identifier
    kind: Literal["price", "display", "mailer", "offer"]
    depth: (
        Annotated[
            float, msgspec.Meta(description="price: share taken off, below zero if it rises; else its reach, 0 to 1")
        ]
        | None
    ) = None
    starts_at: Instant
    ends_at: Instant
    announced_at: Instant


PLATFORM_RECORDS: dict[str, type[PlatformRecord]] = {
    "orders": Order,
    "behaviors": Behavior,
    "reviews": Review,
    "images": Image,
    "products": Product,
    "inventory.levels": InventoryLevel,
    "promotions": Promotion,
}
