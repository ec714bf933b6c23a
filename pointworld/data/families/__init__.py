"""The registry of clip families and the shares in which a configuration draws them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from types import MappingProxyType

from pointworld.data.families.base import Family as Family
from pointworld.data.families.fixtures import ARTICULATED
from pointworld.data.families.rigid import RIGID
from pointworld.data.families.rope import ROPE
from pointworld.data.families.soft import SOFT
from pointworld.data.families.tools import TOOLS
from pointworld.data.tabletop import FAMILIES as TABLETOP
from pointworld.data.tabletop import TabletopConfig
from pointworld.errors import InputError

#: Every family by name.
REGISTRY: Mapping[str, Family] = MappingProxyType(
    {family.name: family for family in (*RIGID, *ARTICULATED, *TOOLS, ROPE, *SOFT)}
)
#: Names of groups, `all` included.
GROUPS: tuple[str, ...] = (*dict.fromkeys(f.group for f in REGISTRY.values()), "all")


def group_of(family: str) -> str:
    """The group of a family; "" for one that is not registered (a user's own clips)."""
    return REGISTRY[family].group if family in REGISTRY else ""


def is_named(family: str, names: Collection[str]) -> bool:
    """Whether `names` has this family or its group. A name that is both means the family, as in `family_shares`."""
    groups = set(names) - set(REGISTRY)
    return family in names or "all" in groups or group_of(family) in groups


def family_shares(config: TabletopConfig) -> dict[str, float]:
    """Relative frequency of every family that `config` draws, in the order of the registry.

    Raises:
        InputError: an unknown family or group, or a frequency that is no positive number.
    """
    shares: dict[str, float] = {}
    for entry in config.families:
        name, _, number = entry.partition("=")
        weight = _weight(entry, number)
        for member, share in _members(name, config).items():
            shares[member] = shares.get(member, 0.0) + weight * share
    return {name: shares[name] for name in REGISTRY if shares.get(name, 0.0) > 0}


def _weight(entry: str, number: str) -> float:
    try:
        weight = float(number or 1.0)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise InputError(f"families has '{entry}', expected NAME or NAME=positive number")
    return weight


def _members(name: str, config: TabletopConfig) -> dict[str, float]:
    """Families of a group or family name with shares that sum to 1."""
    if name == "tabletop":
        total = sum(config.family_weights)
        return {
            family: weight / total
            for family, weight in zip(TABLETOP, config.family_weights, strict=True)
        }
    if name in REGISTRY:
        return {name: 1.0}
    members = [f.name for f in REGISTRY.values() if name in (f.group, "all")]
    if not members:
        known = (*GROUPS, *REGISTRY)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise InputError(
            f"families has '{name}', which is neither a family nor a group.{hint} Known: {', '.join(known)}."
        )
    return {member: 1.0 / len(members) for member in members}
