"""The built-in source: objects of known parts made from a seed, so that everything runs without a single download."""

from collections.abc import Iterator

from pipelines.sources.base import AssetRef
from unipart.errors import UserError, did_you_mean
from unipart.geometry import procedural
from unipart.rng import derive_seed

SCHEME = "procedural:"
LICENCE = "CC0-1.0"


class ProceduralSource:
    """Objects of the kinds of `unipart.geometry.procedural`, one kind after the other.

    Args:
        spec: ``procedural:count=64,seed=0,kinds=chair+table``; every field is optional.

    Raises:
        UserError: a field or kind that does not exist, or a count below 1.
    """

    def __init__(self, spec: str) -> None:
        fields = _parse(spec, {"count": "64", "seed": "0", "kinds": "+".join(procedural.KINDS)})
        self.count, self.seed = _integer(spec, fields, "count"), _integer(spec, fields, "seed")
        self.kinds = fields["kinds"].split("+")
        if self.count < 1:
            raise UserError(f"{spec}: count must be at least 1", "write procedural:count=64")
        for kind in self.kinds:
            if kind not in procedural.KINDS:
                known = list(procedural.KINDS)
                raise UserError(f"{spec}: there is no kind '{kind}'.{did_you_mean(kind, known)}", f"choose from {', '.join(known)}")

    def list_assets(self) -> Iterator[AssetRef]:
        """Yields `count` objects; a larger count adds to the same ones."""
        for number in range(self.count):
            kind = self.kinds[number % len(self.kinds)]
            uri = f"{SCHEME}kind={kind},seed={derive_seed(self.seed, 'procedural', number) % 10**9}"
            yield AssetRef(source="procedural", uri=uri, location=uri, licence=LICENCE)


def build(location: str) -> bytes:
    """Returns the GLB of one object by its location."""
    fields = _parse(location, {"kind": "", "seed": "0"})
    return procedural.build_glb(fields["kind"], _integer(location, fields, "seed"))


def _parse(spec: str, defaults: dict[str, str]) -> dict[str, str]:
    fields = dict(defaults)
    for item in filter(None, spec.removeprefix(SCHEME).split(",")):
        name, equals, value = item.partition("=")
        if name not in defaults or not equals:
            raise UserError(f"{spec}: no field '{item}'.{did_you_mean(name, list(defaults))}", "write procedural:count=64,seed=0")
        fields[name] = value
    return fields


def _integer(spec: str, fields: dict[str, str], name: str) -> int:
    try:
        return int(fields[name])
    except ValueError:
        raise UserError(f"{spec}: {name} is '{fields[name]}', not a whole number", "write procedural:count=64,seed=0") from None
