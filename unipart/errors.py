"""The two ways a run can go wrong that are not our bugs: bad data and wrong usage."""


class Reject(ValueError):
    """An asset that the pipeline refuses, with a reason code that names the cause.

    Args:
        reason: a short snake_case code (``truncated_file``, ``single_component`` ...), stable across versions.
        message: one sentence that names what was found and, where there is one, the fix.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, self.message)


class UserError(ValueError):
    """A mistake in how a command was called: named, with the fix, shown without a traceback.

    Args:
        message: what is wrong, naming the path, flag or field.
        fix: what to do about it.
    """

    exit_code = 2

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(f"{message}\n  fix: {fix}" if fix else message)
        self.message = message
        self.fix = fix

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.message, self.fix)


class EnvironmentProblem(UserError):
    """The machine lacks something (a package, a server, disk space)."""

    exit_code = 3


def did_you_mean(word: str, choices: list[str]) -> str:
    """Returns ``" Did you mean 'x'?"`` for the closest choice, or an empty string."""
    import difflib

    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
