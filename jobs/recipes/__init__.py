"""Recipes: functions from a size to a complete training config. `find_recipe` looks one up by name or address."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from jobs.recipes.sizes import TIERS, Tier, tier
from jobs.training.config import CONFIGS, AnyTrainConfig, Kind
from unipart.errors import UserError, did_you_mean

Recipe = Callable[[Tier], AnyTrainConfig]


def recipe_names() -> list[str]:
    """Returns the names that every kind of training has: the sizes."""
    return list(TIERS)


def find_recipe(kind: Kind, name: str, size: str = "tiny") -> AnyTrainConfig:
    """Returns the config of a recipe.

    Args:
        kind: vae, anchor, whole or part.
        name: a size (ci, tiny, mini, small, base, large, paper), or ``package.module:function``.
        size: the size that an addressed function gets.

    Raises:
        UserError: no such recipe, or it is one of another kind.
    """
    if ":" in name:
        config = _addressed(name)(tier(size))
    elif name in TIERS:
        config = sized(importlib.import_module(f"jobs.recipes.{kind}"), tier(name))
    else:
        hint = did_you_mean(name, recipe_names())
        raise UserError(f"there is no recipe {name!r}.{hint}", f"one of {', '.join(TIERS)}, or package.module:function")
    if not isinstance(config, CONFIGS[kind]):
        raise UserError(f"{name} is a recipe for {config.kind}, not for {kind}", f"unipart train {config.kind} {name}")
    return config


def sized(module: ModuleType, tier: Tier) -> Any:
    """Returns a model's recipe in a tier: the function of the tier's name, or the one that trains from scratch.

    Args:
        module: the model's recipes.
        tier: the size.
    """
    return getattr(module, tier.name, module.from_scratch)(tier)


def _addressed(name: str) -> Recipe:
    module, _, function = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        raise UserError(f"recipe {name!r}: {error}", "give package.module:function, importable from here") from None
    if found is None:
        raise UserError(f"recipe {name!r}: module {module} has no function {function!r}", "check the name after the colon")
    return found
