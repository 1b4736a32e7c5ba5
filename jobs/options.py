"""Flags: a parser whose mistakes are `UserError`s with a suggestion, and flags that come straight from a config."""

import argparse
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from unipart.config import Config
from unipart.errors import UserError, did_you_mean

C = TypeVar("C", bound=Config)
_FLAG_WIDTH = 40
"""Columns of a flag with its value in the help."""


class SuggestingParser(argparse.ArgumentParser):
    """argparse whose mistakes are `UserError`s that name the closest flag or choice, those of a sub-command by its own flags."""

    fields: Callable[[], Config] | None = None
    """Gives a config whose fields are flags too, so that the help lists them; a function, since only the help needs it."""

    @property
    def flags(self) -> list[str]:
        """Every ``--flag`` of this parser."""
        return [name for action in self._actions for name in action.option_strings if name.startswith("--")]

    @property
    def switches(self) -> list[str]:
        """The flags that take no value."""
        return [name for action in self._actions if action.nargs == 0 for name in action.option_strings if name.startswith("--")]

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As argparse, but what a sub-command does not know is told by that sub-command, which has the flags to suggest."""
        known, rest = self.parse_known_args(args, namespace)
        if rest:
            self._chosen(known).error(f"unrecognized arguments: {' '.join(rest)}")
        return known

    def _chosen(self, known: argparse.Namespace) -> argparse.ArgumentParser:
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                return action.choices[getattr(known, action.dest)]
        return self

    def format_help(self) -> str:
        """As argparse, with the fields of the config before the examples."""
        if self.fields is not None:
            self.epilog, self.fields = f"{describe_fields(self.fields())}\n{self.epilog or ''}", None
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Raises what argparse found wrong, with the closest flag or choice."""
        hint = ""
        unknown = re.search(r"unrecognized arguments: (--[\w.-]+)", message)
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if unknown:
            hint = did_you_mean(unknown[1], self.flags)
        elif choice:
            hint = did_you_mean(choice[1], re.findall(r"[\w.-]+", choice[2]))
        raise UserError(f"{self.prog}: {message}.{hint}", f"see `{self.prog} --help`")


class Parser(SuggestingParser):
    """A command's parser: exact flag names, and examples below the help.

    Args:
        command: what the user types after ``unipart``.
        summary: one sentence on top of the help.
        examples: lines at the end of the help.
    """

    def __init__(self, command: str, summary: str, examples: Sequence[str] = ()) -> None:
        epilog = "examples:\n" + "\n".join(f"  {line}" for line in examples) if examples else None
        super().__init__(
            prog=f"unipart {command}",
            description=summary,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )


def whole_number(least: int) -> Callable[[str], int]:
    """Returns the type of a flag that counts from a number on."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is no whole number of at least {least}")
        return int(text)

    return read


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """Returns the type of a flag that measures between two finite numbers, or from one on."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or math.isinf(value):
            told = f"of at least {least}" if math.isinf(most) else f"between {least} and {most}"
            raise argparse.ArgumentTypeError(f"'{text}' is no number {told}")
        return value

    return read


def split_config_flags(arguments: Sequence[str], parser: SuggestingParser) -> tuple[list[str], dict[str, str]]:
    """Separates the parser's own arguments from ``--field value`` pairs meant for a config.

    Returns:
        the arguments for the parser, and {flat field: text}.

    Raises:
        UserError: a config flag without a value.
    """
    own, fields = [], {}
    rest = list(arguments)
    while rest:
        token = rest.pop(0)
        name, equals, value = token.partition("=")
        if not name.startswith("--") or name in parser.flags:
            own.append(token)
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                fix = f"write {name} VALUE; only {', '.join(parser.switches)} take none"
                raise UserError(f"{parser.prog}: flag {name} needs a value", fix)
            value = rest.pop(0)
        fields[name.removeprefix("--").replace("-", "_")] = value
    return own, fields


def apply_fields(config: C, fields: dict[str, str], flags: Sequence[str] = ()) -> C:
    """Returns the config with flat fields (``model.width``) set from text; the config's own types convert it.

    Raises:
        UserError: an unknown field (with the closest one) or a value that does not fit.
    """
    known = _field_names(config)
    for name in fields:
        if name not in known:
            hint = did_you_mean(f"--{name}", [*(f"--{key}" for key in known), *flags])
            fix = "see --help; --dry-run prints every field" if "--dry-run" in flags else "see --help"
            raise UserError(f"there is no flag --{name}.{hint}", fix)
    return config.replace(**{name.replace(".", "__"): _value(text) for name, text in fields.items()})


def describe_fields(config: Config) -> str:
    """Returns the help of a config's fields: a line for every flag, with its value and its docstring.

    The fields of a config that is there twice (for the whole, for the parts) are listed once.
    """
    lines = [f"  {flag:<{_FLAG_WIDTH}} {' '.join(about.split())}" for flag, about in _described(config, "", {})]
    return "\n".join(["fields of the config, each a flag:", *lines, ""])


def _described(config: Config, prefix: str, seen: dict[type[Config], str]) -> Iterator[tuple[str, str]]:
    """Yields (flag and value, docstring), the fields of this config before those of the configs inside it."""
    inner: list[tuple[str, Config, str]] = []
    for name, field in type(config).model_fields.items():
        value, about = getattr(config, name), field.description or ""
        if isinstance(value, Config):
            inner.append((f"{prefix}{name}.", value, about))
        else:
            yield f"--{prefix}{name} {value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}", about
    for below, value, about in inner:
        first = seen.setdefault(type(value), below)
        yield f"{below}*", about if first == below else f"like {first}*: {about}"
        if first == below:
            yield from _described(value, below, seen)


def _field_names(config: Config, prefix: str = "") -> list[str]:
    names = []
    for name in type(config).model_fields:
        names.append(prefix + name)
        value = getattr(config, name)
        if isinstance(value, Config):
            names += _field_names(value, f"{prefix}{name}.")
    return names


def _value(text: str) -> Any:
    """JSON for lists, objects and null; anything else stays text, which pydantic converts to the field's type."""
    if text[:1] in ("[", "{") or text == "null":
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"value {text!r} is not JSON: {error}", 'write lists as ["a","b"]') from None
    return text
