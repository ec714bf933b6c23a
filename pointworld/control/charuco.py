"""ChArUco boards: the board's corners, its picture to print, and finding it in images (OpenCV)."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from pointworld.errors import InputError, MissingExtraError


@dataclass(frozen=True, kw_only=True)
class Board:
    """columns, rows: squares. square, marker: edge lengths [m]. dictionary: of OpenCV's ArUco markers."""

    columns: int = 7
    rows: int = 5
    square: float = 0.04
    marker: float = 0.03
    dictionary: str = "DICT_4X4_50"

    def __post_init__(self) -> None:
        if not (self.columns >= 3 and self.rows >= 3 and 0 < self.marker < self.square):
            raise InputError(
                f"a board of {self.columns} x {self.rows} squares of {self.square} m with markers of {self.marker} m: "
                "expected at least 3 x 3, and markers smaller than squares"
            )

    def corners(self) -> np.ndarray:
        """((columns - 1) (rows - 1), 3) inner corners [m], in the order of their numbers."""
        x, y = np.meshgrid(np.arange(1, self.columns), np.arange(1, self.rows))
        flat = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
        return flat * self.square

    def picture(self, pixels_per_square: int = 120) -> np.ndarray:
        """The board without a margin, (rows, columns) * pixels_per_square, uint8."""
        size = (self.columns * pixels_per_square, self.rows * pixels_per_square)
        return np.asarray(self._opencv().generateImage(size))

    def find(self, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Corners in an image (height, width, 3) uint8: numbers (found,), pixels (found, 2) centred at x.5."""
        cv2 = import_opencv()
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        pixels, numbers, _, _ = cv2.aruco.CharucoDetector(self._opencv()).detectBoard(grey)
        if numbers is None or len(numbers) == 0:
            return np.zeros(0, np.int64), np.zeros((0, 2))
        # OpenCV puts pixel centres at integers.
        return numbers.ravel().astype(np.int64), pixels.reshape(-1, 2).astype(np.float64) + 0.5

    def _opencv(self) -> Any:
        cv2 = import_opencv()
        code = getattr(cv2.aruco, self.dictionary, None)
        if code is None:
            raise InputError(f"OpenCV knows no ArUco dictionary '{self.dictionary}'")
        return cv2.aruco.CharucoBoard(
            (self.columns, self.rows),
            self.square,
            self.marker,
            cv2.aruco.getPredefinedDictionary(code),
        )


def import_opencv() -> Any:
    """The cv2 module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError as error:
        raise MissingExtraError(
            "opencv-python-headless", "calibration", "Finding the board"
        ) from error
    return cv2
