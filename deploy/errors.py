"""The error tree of `deploy`: each message names the thing, the value and the way out."""

from streams.errors import ConfigurationError


class DeployError(Exception):
    """Root of every error that this package raises on purpose."""


class LocalKafkaError(DeployError):
    """The local broker cannot run here, did not start, or its folder is not usable."""


class SourceError(DeployError, ConfigurationError):
    """The data to load is missing, or not what it should be."""


class ReplayError(DeployError):
    """Events could not be handed to the broker."""


class EvaluationError(DeployError, ConfigurationError):
    """The data do not allow the evaluation that was asked for."""


class TopicError(DeployError):
    """A topic is missing, or is not what the table of topics says."""


class RedriveError(DeployError):
    """Dead letters could not be sent again, or too many of them failed again."""


__all__ = [
    "ConfigurationError",
    "DeployError",
    "EvaluationError",
    "LocalKafkaError",
    "RedriveError",
    "ReplayError",
    "SourceError",
    "TopicError",
]
