"""The error tree of `featurizers`: each message names the thing, the value and the way out."""


class FeaturizersError(Exception):
    """Root of every error that this package raises on purpose."""


class EncoderError(FeaturizersError):
    """A text or image model, or a projection, cannot be loaded or used."""


class EncodingError(FeaturizersError):
    """An encoder stage was given what it cannot fold."""


class WindowsError(FeaturizersError):
    """The windows fold met a record or a state that it does not know."""
