"""One family of errors. Every message says what is wrong, what was expected, what was found, and the remedy."""

from __future__ import annotations


class PointWorldError(Exception):
    """Root of all errors that a caller may want to catch; the command line ends with exit code 2 on it."""


class InputError(PointWorldError, ValueError):
    """An argument, file or folder given by the caller is not usable."""


class AssetError(InputError):
    """A robot description, mesh or bundled asset is missing or broken."""


class CheckpointError(InputError):
    """A checkpoint cannot be read, or does not match the architecture it claims."""


class MissingExtraError(PointWorldError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, module: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{module}', which is not installed. "
            f"Install it with: pip install 'pointworld-open[{extra}]'"
        )
        self.module = module
        self.extra = extra
