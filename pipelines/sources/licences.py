"""One name per licence: the short names of Objaverse and the long ones of GitHub and Thingiverse become SPDX ids."""

import re
from functools import lru_cache

_CREATIVE_COMMONS = re.compile(r"(?:cc-)?(by(?:-nc)?(?:-sa|-nd)?)(?:-([1-4])-([05]))?")
_WORDS = {
    "creative-commons-": "",
    "attribution": "by",
    "non-commercial": "nc",
    "noncommercial": "nc",
    "share-alike": "sa",
    "sharealike": "sa",
    "no-derivatives": "nd",
    "noderivatives": "nd",
    "noderivs": "nd",
    "-international": "",
    "-unported": "",
}
_NAMES = {
    "CC0-1.0": ("cc0", "cc0-1-0", "cc-zero", "cc0-public-domain", "zero", "zero-v1-0-universal", "public-domain-dedication"),
    "MIT": ("mit", "mit-license"),
    "MIT-0": ("mit-0", "mit-no-attribution"),
    "Apache-2.0": ("apache-2-0", "apache-license-2-0"),
    "BSD-2-Clause": ("bsd-2-clause", "bsd-2-clause-simplified-license"),
    "BSD-3-Clause": ("bsd-3-clause", "bsd-3-clause-new-or-revised-license"),
    "ISC": ("isc", "isc-license"),
    "Zlib": ("zlib", "zlib-license"),
    "Unlicense": ("unlicense", "the-unlicense"),
    "MPL-2.0": ("mpl-2-0", "mozilla-public-license-2-0"),
    "GPL-2.0-only": ("gpl-2-0", "gpl-2-0-only", "gnu-general-public-license-v2-0"),
    "GPL-3.0-only": ("gpl-3-0", "gpl-3-0-only", "gnu-general-public-license-v3-0"),
    "LGPL-3.0-only": ("lgpl-3-0", "lgpl-3-0-only", "gnu-lesser-general-public-license-v3-0"),
    "AGPL-3.0-only": ("agpl-3-0", "agpl-3-0-only", "gnu-affero-general-public-license-v3-0"),
}
_SPDX = {name: spdx for spdx, names in _NAMES.items() for name in names}


@lru_cache(maxsize=4096)
def normalise_licence(text: str) -> str:
    """Returns the SPDX id of a licence, or the text as it is when it is none of those known here.

    Upper and lower case, spaces and punctuation do not matter. A Creative Commons name without a version (``by-nc``,
    ``Creative Commons - Attribution``) is taken for 4.0, the version under which Objaverse's source publishes.
    """
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    for long, short in _WORDS.items():
        words = words.replace(long, short)
    found = _CREATIVE_COMMONS.fullmatch(words)
    if found:
        kind, major, minor = found.groups()
        return f"CC-{kind.upper()}-{major or 4}.{minor or 0}"
    return _SPDX.get(words, text.strip())
