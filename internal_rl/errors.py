"""Faults a user can mend, each told in one line."""

EXIT_USER_ERROR = 2
"""Exit code of a command line that has told such a fault."""


class UserError(Exception):
    """A fault whose message is one line that says what is wrong and what is allowed.

    Command lines print the message without a traceback and leave with `EXIT_USER_ERROR`.
    """


class ConfigError(UserError):
    """A configuration field is unknown, has the wrong type or a value outside its range."""


class SubgoalsMissingError(ConfigError):
    """A stage needs subgoals that the world or the trajectories do not tell."""


class StageMissingError(UserError):
    """An earlier stage whose results are needed has not been finished."""


class StageConflictError(UserError):
    """A stage directory belongs to another configuration or to another running process."""


class StorageError(UserError):
    """The work directory cannot be read or written."""


class DivergenceError(UserError):
    """The loss or the parameters stopped being finite."""


class ContractError(UserError):
    """A world or a block breaks its contract; one line per fault."""
