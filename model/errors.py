"""The error tree of `model`: each message names the thing, the value and the way out."""


class ModelError(Exception):
    """Root of every error that this package raises on purpose."""


class DatasetError(ModelError):
    """The history cannot be made into training and validation rows."""


class RegistryError(ModelError):
    """A bundle of the network is missing, broken or not what its manifest says."""


class ScoringError(ModelError):
    """A window cannot be scored as asked."""


class ExportError(ModelError):
    """A network cannot be exported, or an export does not say what its network says."""
