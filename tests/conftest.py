"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

# A slow example is no failure: the machine may have been busy.
settings.register_profile("patient", parent=settings(), deadline=None)
settings.load_profile("patient")
# `pytest --hypothesis-profile nightly` draws more.
settings.register_profile("nightly", max_examples=10_000, deadline=None)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of reference fixtures and real captures beside the repository; skips where it is absent."""
    folder = Path(os.environ.get("POINTWORLD_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "fixtures").is_dir():
        pytest.skip(f"reference fixtures and captures are not at {folder}")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded NumPy generator."""
    return np.random.default_rng(20260101)


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded torch generator."""
    return torch.Generator().manual_seed(20260101)


@pytest.fixture(autouse=True)
def _leave_globals_alone() -> Iterator[None]:
    """No test may leave another thread count or default dtype behind."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


_skipped_shared: list[str] = []


def _shared_exists() -> bool:
    return Path(
        os.environ.get("POINTWORLD_SHARED", REPOSITORY.parent / "shared"), "fixtures"
    ).is_dir()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember skipped tests that depend on the shared fixtures."""
    if report.skipped and "needs_shared" in report.keywords:
        _skipped_shared.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run when the shared fixtures exist and a test that depends on them was skipped."""
    if _skipped_shared and _shared_exists():
        names = "\n  ".join(_skipped_shared)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(
                f"the shared fixtures are there, but these tests skipped:\n  {names}", red=True
            )
