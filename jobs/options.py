"""Flags: a parser whose mistakes are `UserError`s with a suggestion, and flags that come straight from a config."""

import argparse
import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

from unipart.config import Config
from unipart.errors import UserError, did_you_mean

C = TypeVar("C", bound=Config)


class SuggestingParser(argparse.ArgumentParser):
    """argparse whose mistakes are `UserError`s that name the closest flag or choice."""

    @property
    def flags(self) -> list[str]:
        """Every ``--flag`` of this parser."""
        return [name for action in self._actions for name in action.option_strings if name.startswith("--")]

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


def split_config_flags(arguments: Sequence[str], parser: Parser) -> tuple[list[str], dict[str, str]]:
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
                known = f"{did_you_mean(name, parser.flags)}" if not rest else ""
                raise UserError(f"{parser.prog}: flag {name} needs a value.{known}", f"write {name} VALUE")
            value = rest.pop(0)
        fields[name.removeprefix("--").replace("-", "_")] = value
    return own, fields


def apply_fields(config: C, fields: dict[str, str], flags: Sequence[str] = ()) -> C:
    """Returns the config with flat fields (``model.width``) set from text; the config's own types convert it.

    Raises:
        UserError: an unknown field (with the closest one) or a value that does not fit.
    """
    known = _field_names(config)
    for name, text in fields.items():
        if name not in known:
            hint = did_you_mean(f"--{name}", [*(f"--{key}" for key in known), *flags])
            raise UserError(f"there is no flag --{name}.{hint}", "see --help; --dry-run prints every field")
        config = config.replace(**{name.replace(".", "__"): _value(text)})
    return config


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
