"""Matrices and tables in text files."""

from __future__ import annotations

import re
import string
from pathlib import Path

import numpy as np

from pointworld.errors import InputError


def read_text(path: Path) -> str:
    """Read a small UTF-8 text file, or raise InputError naming it."""
    if not path.is_file():
        raise InputError(f"{path}: the file does not exist")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file") from error


def parse_numbers(text: str, where: str) -> np.ndarray:
    """All numbers of a text (blanks or commas between them) as float64."""
    words = text.replace(",", " ").split()
    try:
        return np.array([float(word) for word in words], dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{where}: expected only numbers ({error})") from error


def read_matrix(path: Path, rows: int, columns: int) -> np.ndarray:
    """Read a matrix of exactly rows x columns numbers."""
    numbers = parse_numbers(read_text(path), str(path))
    if numbers.size != rows * columns:
        raise InputError(
            f"{path}: holds {numbers.size} numbers, expected a {rows}x{columns} matrix "
            f"({rows * columns} numbers)"
        )
    return numbers.reshape(rows, columns)


def read_intrinsics(path: Path) -> np.ndarray:
    """Read K from a text file: 3x3, 4x4 with K in its corner, or the four numbers fx fy cx cy.

    The numbers are returned as they stand: the caller knows the file's pixel convention.
    """
    numbers = parse_numbers(read_text(path), str(path))
    if numbers.size == 4:
        fx, fy, cx, cy = numbers
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    if numbers.size == 16:
        return numbers.reshape(4, 4)[:3, :3].copy()
    if numbers.size == 9:
        return numbers.reshape(3, 3)
    raise InputError(
        f"{path}: holds {numbers.size} numbers, expected a 3x3 or 4x4 intrinsic matrix, or fx fy cx cy"
    )


def data_lines(text: str) -> list[list[str]]:
    """Non-empty lines that are not `#` comments, split at blanks."""
    lines = (line.strip() for line in text.splitlines())
    return [line.split() for line in lines if line and not line.startswith("#")]


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that orders frame2 before frame10, and numbers before letters."""
    parts = re.findall(r"[0-9]+|[^0-9]", name)
    return tuple((0, int(p), "") if p[0] in string.digits else (1, 0, p) for p in parts)
