"""Errors that a user can cause or repair. Each message says what happened and why; ``hint`` is the way on.

::

    SynthVLMError                exit code 2
    ├── InputError               an input file cannot be read as it is: names file, line and field
    ├── OptionError              an option is unknown, ill-typed or out of range
    ├── PluginError              a plugin is broken, missing, or registered twice
    ├── CheckpointError          a checkpoint cannot be found, fetched or loaded
    ├── RunError                 the run directory does not allow the step
    │   ├── RunMismatch          an identity option differs from the stage's recorded one
    │   └── RunLocked            another process holds the run for an exclusive step
    ├── WorkerError              a worker process cannot start or keeps dying
    └── TooManyFailures          most of the last rows failed for one reason; exit code 3
"""

from __future__ import annotations


class SynthVLMError(Exception):
    """Base of the family: one line of what and why, and optionally ``hint``, the way on."""

    exit_code = 2

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class InputError(SynthVLMError):
    """An input file cannot be read as it is."""


class OptionError(SynthVLMError):
    """An option is unknown, ill-typed or out of range."""


class PluginError(SynthVLMError):
    """A plugin is broken, missing, or registered twice."""


class CheckpointError(SynthVLMError):
    """A checkpoint cannot be found, fetched or loaded."""


class RunError(SynthVLMError):
    """The run directory does not allow the step."""


class RunMismatch(RunError):
    """An identity option differs from the one that the stage was made with."""


class RunLocked(RunError):
    """Another process holds the run for an exclusive step."""


class WorkerError(SynthVLMError):
    """A worker process cannot start or keeps dying."""


class TooManyFailures(SynthVLMError):
    """Most of the last rows failed for one reason, so going on would waste time."""

    exit_code = 3
