"""Errors a user sees: one or two lines that name the thing, the number and the next step.

Each carries the exit code of the command line: 1 failed, 2 usage or configuration, 3 a gate said no.
"""


class GroundupError(Exception):
    """Something failed while working (exit code 1): a broken file, a full disk, a run that cannot go on."""

    exit_code = 1


class UsageError(GroundupError):
    """What was asked for cannot be done (exit code 2): a wrong option, an unknown key, a target that matches nothing."""

    exit_code = 2


class GateError(GroundupError):
    """A measurement stayed below the bar that the user set (exit code 3)."""

    exit_code = 3
