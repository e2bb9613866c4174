"""The error that a user caused and can cure: shown as one message, without a traceback."""


class AnatomyError(Exception):
    """A refusal that names the refused value, where it came from, and the cure."""


class ArgumentError(AnatomyError, ValueError):
    """An argument of a public function that is out of range or of the wrong kind."""


class TooLittleMemoryError(AnatomyError):
    """A computation that needs more memory than the device or the job has."""


class ConfigError(AnatomyError):
    """A configuration that cannot be run."""


class CodeError(AnatomyError):
    """Code that is no longer what a job was told of."""


class DataError(AnatomyError):
    """A data set that is missing, corrupt or too small."""


class StorageError(AnatomyError):
    """A disk that takes no more: full, or not to be written to."""


class ArtifactError(AnatomyError):
    """A file of this project's own making that is missing, truncated or foreign."""
