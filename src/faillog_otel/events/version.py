"""Which versions of an event are understood: those with the major version 1, however it is written."""

import re

_MAJOR_1 = re.compile(r"\s*[vV]?0*1(?![0-9])")


def is_version_1(version: object) -> bool:
    """Whether a record's `version` is `1`, `"1"`, `"v1"`, `"v1.x"` or absent (None).

    Segment's page says `"v1"`, its first draft said the number 1.
    """
    if isinstance(version, str):
        return _MAJOR_1.match(version) is not None
    if isinstance(version, bool):
        return False
    return version is None or (isinstance(version, int | float) and 1 <= version < 2)
