import argparse

import pytest

from jobs.options import Parser, SuggestingParser, apply_fields, describe_fields, number, split_config_flags, whole_number
from jobs.recipes import find_recipe
from unipart.config import Config
from unipart.errors import UserError
from unipart.nn.dit_block import StackConfig


class Inner(Config):
    width: int = 64
    names: tuple[str, ...] = ("a",)
    rates: dict[str, float] = {}  # noqa: RUF012


class Outer(Config):
    steps: int = 10
    inner: Inner = Inner()
    note: str | None = None


@pytest.fixture
def parser() -> Parser:
    parser = Parser("try", "Tries.", ["unipart try --out x"])
    parser.add_argument("kind", choices=("vae", "part"))
    parser.add_argument("recipe", nargs="?", default="tiny")
    parser.add_argument("--out")
    parser.add_argument("--dry-run", action="store_true")
    return parser


def test_config_flags_are_separated_from_the_parsers_own(parser: Parser):
    own, fields = split_config_flags(["vae", "--steps", "5", "--out", "x", "--inner.width=8", "--dry-run"], parser)
    assert own == ["vae", "--out", "x", "--dry-run"]
    assert fields == {"steps": "5", "inner.width": "8"}
    assert parser.parse_args(own).recipe == "tiny"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"steps": "5"}, Outer(steps=5)),
        ({"inner.width": "8"}, Outer(inner=Inner(width=8))),
        ({"inner.names": '["x","y"]'}, Outer(inner=Inner(names=("x", "y")))),
        ({"inner.rates": '{"seg": 10}'}, Outer(inner=Inner(rates={"seg": 10.0}))),
        ({"note": "12"}, Outer(note="12")),
        ({"note": "null"}, Outer()),
    ],
)
def test_text_becomes_the_fields_type(fields, expected):
    assert apply_fields(Outer(), fields) == expected


def test_values_that_only_fit_together_may_come_in_any_order():
    fields = {"hidden": "96", "num_heads": "12"}  # 96 / 7 and 70 / 12 are no integers
    start, expected = StackConfig(hidden=70, num_heads=7), StackConfig(hidden=96, num_heads=12)
    assert apply_fields(start, fields) == expected
    assert apply_fields(start, dict(reversed(fields.items()))) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stepz": "5"}, "--steps"),
        ({"inner.widht": "5"}, "--inner.width"),
        ({"steps": "many"}, "'steps'"),
        ({"inner.names": "[broken"}, "not JSON"),
    ],
)
def test_a_wrong_field_or_value_names_the_fix(fields, message):
    with pytest.raises(UserError, match=message):
        apply_fields(Outer(), fields)


def test_a_config_flag_without_a_value_is_refused(parser: Parser):
    with pytest.raises(UserError, match="--steps needs a value"):
        split_config_flags(["vae", "--steps"], parser)
    with pytest.raises(UserError, match="--steps needs a value"):
        split_config_flags(["vae", "--steps", "--out", "x"], parser)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [(["vea"], "'vae'"), (["vae", "tiny", "--outt=x"], "'--out'"), (["vae", "tiny", "extra"], "unrecognized")],
)
def test_the_parser_suggests(parser: Parser, arguments, hint):
    with pytest.raises(UserError, match=hint):
        parser.parse_args(arguments)


def test_a_mistake_in_a_sub_command_is_told_by_it():
    parser = SuggestingParser("try")
    sub = parser.add_subparsers(dest="command").add_parser("sub", allow_abbrev=False)
    sub.add_argument("--verbose")
    with pytest.raises(UserError, match=r"try sub: unrecognized arguments: --verbos=1\. Did you mean '--verbose'"):
        parser.parse_args(["sub", "--verbos=1"])


def test_the_fields_of_a_config_are_listed_with_values_and_docstrings_once_a_class():
    class Twice(Config):
        first: Inner = Inner()
        """One."""
        second: Inner = Inner()
        """Another."""
        steps: int = 3
        """How many."""

    lines = [" ".join(line.split()) for line in describe_fields(Twice()).splitlines()]
    assert lines[1:] == [
        "--steps 3 How many.",
        "first.* One.",
        "--first.width 64",
        '--first.names ["a"]',
        "--first.rates {}",
        "second.* like first.*: Another.",
    ]


@pytest.mark.parametrize(
    ("of", "text", "value"),
    [
        (whole_number(0), "0", 0),
        (whole_number(1), "12", 12),
        (number(0), "0.5", 0.5),
        (number(0, 1), "1", 1.0),
        (number(0), "inf", None),
    ]
    + [(whole_number(0), text, None) for text in ("-1", "1.5", "many")]
    + [(whole_number(1), "0", None), (number(0), "-0.5", None), (number(0), "nan", None), (number(0, 1), "1.5", None)],
)
def test_numbers_have_their_bounds(of, text: str, value: float | None):
    if value is None:
        with pytest.raises(argparse.ArgumentTypeError, match=text):
            of(text)
    else:
        assert of(text) == value


@pytest.mark.parametrize("field", ["steps", "batch_size", "accumulate", "log_every", "keep_checkpoints", "optimizer.clip"])
def test_a_training_of_nothing_is_refused(field: str):
    with pytest.raises(UserError, match=field):
        apply_fields(find_recipe("vae", "ci"), {field: "0"})
