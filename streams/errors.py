"""The error tree of `streams`: each message names the thing, the value and the way out."""


class StreamsError(Exception):
    """Root of every error that this package raises on purpose."""


class CodecError(StreamsError):
    """A record of an internal topic is not what its topic promises."""


class SnapshotError(StreamsError):
    """A snapshot is missing a part, or a part is not what its manifest says."""


class PoisonError(StreamsError):
    """A record of a stage's input that its fold cannot take."""


class BrokerError(StreamsError):
    """The broker could not be reached, or refused."""


class UnreachableError(BrokerError):
    """No broker answered in time: the same may go well in a moment."""


class MemoryLimitError(StreamsError):
    """A process holds more than it may."""


class ConfigurationError(StreamsError):
    """A setting makes no sense; nothing was started."""


class ReadModelError(StreamsError):
    """The SQL read model could not be reached, or is not what this version expects."""


class ReplayError(StreamsError):
    """A replay cannot do what was asked of it, or what it did cannot be used."""
