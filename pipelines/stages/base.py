"""What a stage is: one step from columns to columns, declared so that a plan can be checked before anything runs."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from unipart.config import Config

Row = dict[str, Any]


@dataclass(frozen=True)
class Resources:
    """What one asset takes in a stage.

    Attributes:
        cpus: CPU cores.
    """

    cpus: float = 1.0


class Stage(ABC):
    """One data step. A stage never imports another one: they meet at the columns.

    Args:
        config: the stage's own config.
        seed: of the run; only stages that draw use it.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]]
    """Columns that the stage needs; it is given these and no others."""
    writes: ClassVar[tuple[str, ...]]
    """Columns that the stage returns, all of them, always."""
    draws: ClassVar[bool] = False
    """Whether the seed matters."""
    version: ClassVar[int] = 1
    """Raised when the code gives other results for the same config, so that old results are not taken for new ones."""
    resources: ClassVar[Resources] = Resources()

    def __init__(self, config: Config, seed: int = 0) -> None:
        self.config, self.seed = config, seed

    @abstractmethod
    def __call__(self, row: Row) -> Row:
        """Returns the written columns of one asset.

        Raises:
            Reject: bad data, with its reason code.
        """

    def identity(self) -> dict[str, Any]:
        """Returns what the results depend on besides the row, as JSON."""
        seed = {"seed": self.seed} if self.draws else {}
        return {"name": self.name, "version": self.version, "config": self.config.model_dump(mode="json"), **seed}
