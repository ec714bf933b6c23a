"""The way through free air to a push: up, over and down, past everything that was seen."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pointworld.plan.tasks.push_paths import Push
from pointworld.plan.tasks.seen import Seen

#: Closed fingers: half of what they take along and across their flat side, and their height up to the palm [m].
_FINGERS, _FINGERS_WIDE, _PALM = 0.010, 0.021, 0.05
#: Half of the palm along and across, the height from which the flange is there, and its radius [m].
_PALM_THICK, _PALM_WIDE, _FLANGE, _FLANGE_WIDE = 0.033, 0.103, 0.13, 0.06
#: Half thickness of a tool in the hand [m].
_TOOL = 0.02
#: Distance from what should stay, and from the target itself, which is known better and may be touched [m].
_ROOM, _ROOM_TARGET = 0.010, 0.002
#: The hand travels this far above what lies under its way [m].
_OVER = 0.03


@dataclass(frozen=True, kw_only=True, eq=False)
class Hand:
    """What travels. depth: length of a tool below the fingertips [m], 0 = none; wide: its half width [m]."""

    depth: float = 0.0
    wide: float = 0.0

    def fits(self, push: Push, points: np.ndarray, room: float) -> bool:
        """Whether the hand can come straight down to where a push begins.

        Args:
            points: (points, 3) of what it must not touch [m]. room: distance kept from them [m].
        """
        off = points - push.behind
        along = np.abs(off[:, :2] @ push.ahead) - room
        beside = np.abs(off[:, :2] @ np.array([-push.ahead[1], push.ahead[0]])) - room
        # What the hand has passed on its way down counts too.
        above = off[:, 2] + room
        hit = (above > 0) & (along < _FINGERS) & (beside < _FINGERS_WIDE)
        hit |= (above > _PALM) & (along < _PALM_THICK) & (beside < _PALM_WIDE)
        hit |= (above > _FLANGE) & (np.hypot(along + room, beside + room) < _FLANGE_WIDE + room)
        if self.depth:
            hit |= (above > -self.depth) & (along < _TOOL) & (beside < self.wide)
        return not bool(hit.any())

    def over(self, start: np.ndarray, end: np.ndarray, points: np.ndarray) -> float:
        """Lowest height of the fingertips at which the hand passes over everything between two places.

        Args:
            start, end: (3,) [m]. points: (points, 3) of what is in the way or not [m].
        """
        a, way = start[:2], end[:2] - start[:2]
        share = np.clip((points[:, :2] - a) @ way / max(float(way @ way), 1e-9), 0.0, 1.0)
        gap = np.linalg.norm(points[:, :2] - a - share[:, None] * way, axis=-1)
        reach = max(_FINGERS_WIDE, self.wide) if self.depth else _FINGERS_WIDE
        low = points[gap < reach + _OVER, 2].max(initial=-np.inf) + self.depth
        wide = points[gap < _PALM_WIDE + _OVER, 2].max(initial=-np.inf) - _PALM
        return float(max(low, wide)) + _OVER


@dataclass(frozen=True, kw_only=True, eq=False)
class FreeAir:
    """Ways from where the hand is.

    table: its height [m]. highest: of the fingertips [m]. room: share of the distances that are kept.
    """

    hand: Hand
    table: float
    highest: float
    room: float = 1.0

    def clear(self, seen: Seen, tool: np.ndarray, push: Push) -> Push | None:
        """The push with the height of its way there; None where something stands in the way.

        Args:
            tool: (3,) fingertips now [m].
        """
        others = seen.state.scene.points[seen.still_index].double().cpu().numpy()
        others = others[others[:, 2] > self.table + 0.006]
        if not self.hand.fits(push, others, self.room * _ROOM):
            return None
        close = self.room * _ROOM_TARGET
        if not push.press and not self.hand.fits(push, seen.points, close):
            return None
        around = np.concatenate([others, seen.points])
        over = max(self.hand.over(tool, push.behind, around), push.contact[2] + 0.05)
        return None if over > self.highest else replace(push, over=over)
