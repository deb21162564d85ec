"""Errors that a user can act on; each is one line that says what, what was expected, what to do.

ViltBenchError
├── ConfigError        an option or its value
├── FileError          a file that can't be read or written
├── EmbedderError      an embedder: broken, or against the contract
│   └── UnknownEmbedderError   there is none of that name, or it has no such option
├── InputError         an image or a text
├── CheckpointError    weights: unreadable, incomplete, or of another model
├── DeviceError        a device that is not there or can't do what was asked
├── RecordError        a record: unreadable, corrupt, or too new
└── MeasurementError   a measurement that could not be made
"""


class ViltBenchError(Exception):
    """Root of all errors that a user can act on; the command line prints it as one line, exit code 2.

    A message names fields and arguments as Python does, in backticks, such as `batch_size`; where the command line
    prints it, it writes its flags for them.
    """

    def __init__(self, problem: str = "", *, field: str = "") -> None:
        """Keep what is wrong, and of which field.

        Args:
            problem: the message; with a field, what follows that field's name.
            field: or argument that the message is of.
        """
        super().__init__(f"`{field}` {problem}" if field else problem)
        self.problem = problem
        self.field = field


class ConfigError(ViltBenchError):
    """An option or its value is wrong."""


class FileError(ViltBenchError):
    """A file can't be read or written."""

    def __init__(self, message: str, *, reason: str = "", missing: bool = False) -> None:
        """Keep the message, and what of it others put into a sentence of their own.

        Args:
            message: the whole.
            reason: what the system objects to, such as `permission denied`.
            missing: whether there is no such file.
        """
        super().__init__(message)
        self.reason = reason
        self.missing = missing


class EmbedderError(ViltBenchError):
    """An embedder is unknown, fails to import, or breaks the contract."""


class UnknownEmbedderError(EmbedderError):
    """There is no embedder of that name, or it has no such option."""


class InputError(ViltBenchError):
    """An image or a text can't be used."""


class CheckpointError(ViltBenchError):
    """Weights are unreadable, incomplete, or of another model."""


class DeviceError(ViltBenchError):
    """A device is not there, or can't do what was asked."""


class RecordError(ViltBenchError):
    """A record is unreadable, corrupt, or newer than this program."""


class MeasurementError(ViltBenchError):
    """A measurement could not be made."""
