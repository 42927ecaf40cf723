"""Which cases of a test CI runs."""

from collections.abc import Collection, Iterable

import pytest


def quick(cases: Iterable[str], chosen: Collection[str]) -> list:
    """All cases, of which only the chosen ones are run without `-m slow`."""
    cases = list(cases)
    missing = set(chosen) - set(cases)
    if missing:
        raise ValueError(f"chosen: {sorted(missing)} given, allowed are {cases}")
    return [
        case if case in chosen else pytest.param(case, marks=pytest.mark.slow) for case in cases
    ]
