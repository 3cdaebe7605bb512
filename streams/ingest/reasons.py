"""Why an event could not be used: the reason codes of `trend.dlq`."""

from __future__ import annotations

import enum

from streams.errors import StreamsError


class Reason(enum.Enum):
    """A stable code, and one line that tells the producer what to do."""

    EMPTY = "empty", "the record has no value; tombstones mean nothing here"
    NOT_JSON = "not-json", "the value is not one JSON document in UTF-8 (NaN and Infinity are not JSON)"
    WRONG_TYPE = "wrong-type", "a field holds another JSON type than the schema says"
    MISSING_FIELD = "missing-field", "a required field or list is absent or empty"
    UNKNOWN_STATUS = "unknown-status", "an order's status is placed, cancelled or returned"
    UNKNOWN_KIND = "unknown-kind", "the kind of a behaviour, picture or promotion is not one of the schema's"
    UNKNOWN_PLATFORM = "unknown-platform", "the platform is not in the settings"
    BAD_ID = "bad-id", "a product id holds characters that cannot be printed"
    BAD_QUANTITY = "bad-quantity", "a quantity is not a whole number between 1 and the bound"
    NEGATIVE = "negative", "a stock number or lead time is below zero"
    BAD_PRICE = "bad-price", "an amount is no number, not above zero, beyond the bound, or finer than its currency"
    BAD_CURRENCY = "bad-currency", "the currency is not the platform's own"
    BAD_RATING = "bad-rating", "a rating is a whole number from 1 to 5"
    BAD_TIME = "bad-time", "a time is neither RFC 3339 with an offset nor epoch milliseconds"
    BAD_DEPTH = "bad-depth", "a price change takes a share below 1 off the price; another promotion reaches 0 to 1"
    FUTURE = "future", "a time lies too far after the record's own time"
    TOO_LATE = "too-late", "the event is older than the windows reach, measured by its source's watermark"
    TOO_LARGE = "too-large", "the record, a text, an id or a list is longer than its bound"
    BAD_CONTENT = "bad-content", "a picture needs either valid base64 content or a uri, and no personal data in names"
    ORDER_UNKNOWN = "order-unknown", "no order came for this cancellation within the dedupe horizon"
    CANCELS_MORE = "cancels-more-than-ordered", "a cancellation takes more of a product than its order has"

    def __init__(self, code: str, help_line: str) -> None:
        self.code = code
        self.help = help_line


class RejectedError(StreamsError):
    """An event that becomes a dead letter. The message holds no personal data."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
