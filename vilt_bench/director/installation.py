"""The installations whose processes are measured."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from vilt_bench.director.process import Overhear, Worker, WorkerNotStartedError
from vilt_bench.errors import ConfigError
from vilt_bench.wire import Patience

NO_INTERPRETER = (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ENOEXEC, errno.ELOOP, errno.EISDIR)
"""What the system says of a path that is none."""


@dataclass(frozen=True)
class Installation:
    """One of the two installations that are measured."""

    name: str
    """As a reader knows it."""
    python: str = sys.executable
    flags: tuple[str, ...] = ()
    """Of the interpreter."""
    folder: str | None = None
    """Where its processes run and look for modules first; `None`: here."""
    versions: tuple[str, ...] = ()
    """What tells it from the other, such as a commit."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of its processes' environment, where they differ from this process's."""
    built: str | None = None
    """The folder that it was built in, where its code must come from; `None`: it was not built for this."""
    apart_from: tuple[str, ...] = ()
    """Files, and folders but for what is installed in them, that its modules must not come from: the other side's."""

    def start(self, patience: Patience | None = None, overhear: Overhear = lambda _: None) -> Worker:
        """Returns a fresh process of this installation.

        Args:
            patience: how long it may be silent.
            overhear: told what it has printed, when it has ended.

        Raises:
            ConfigError: there is no such interpreter.
            WorkerNotStartedError: the system can't start it.
        """
        environment = {**os.environ, **self.variables}
        try:
            return Worker.start(
                self.python, self.flags, self.folder, environment, patience=patience, overhear=overhear, older=True
            )
        except WorkerNotStartedError as error:
            if error.cause.errno not in NO_INTERPRETER:
                raise
            raise ConfigError(
                f"{self.python} can't be started ({(error.cause.strerror or str(error.cause)).lower()}); "
                "expected an interpreter such as .venv/bin/python"
            ) from None


HERE = Installation("this installation")
