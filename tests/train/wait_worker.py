"""What `torchrun` starts in test_parallel.py: the first process takes longer than training's timeout."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path

from pointworld.train import joined_ranks, parallel

#: Seconds: of training's timeout here, and of what the first process does meanwhile.
TIMEOUT, WORK = 10, 15


def main(folder: Path, how: str) -> None:
    """Join, keep the others waiting by `how` (wait or agree), and leave a file."""
    parallel.TIMEOUT = timedelta(seconds=TIMEOUT)
    number = os.environ["RANK"]
    (folder / f"ready{number}").touch()
    while len(list(folder.glob("ready*"))) < 2:  # importing may take longer than the timeout
        time.sleep(0.1)
    with joined_ranks() as ranks:
        if ranks.leads:
            time.sleep(WORK)
        if how == "wait":
            ranks.wait()
        else:
            ranks.agree(1.0)
        (folder / f"met{ranks.rank}").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
