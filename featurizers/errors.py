"""The error tree of `featurizers`: each message names the thing, the value and the way out."""


class FeaturizerError(Exception):
    """Root of every error that this package raises on purpose."""


class EncoderError(FeaturizerError):
    """A text or image model cannot be loaded or used."""


class WindowError(FeaturizerError):
    """The windows fold met a record or a state that it does not know."""
