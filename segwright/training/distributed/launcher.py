"""``python -m segwright.training.distributed.launcher N ARGUMENTS``: segwright in N processes, under torch's launcher.

It ends as its processes end: with the exit code of the first that failed, and with no traceback of the launcher's own
under their errors.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run


def main(processes: int, arguments: Sequence[str]) -> int:
    """Run ``segwright ARGUMENTS`` in ``processes`` processes; returns the exit code: 128 + n after signal n."""
    logging.disable()  # what it sends to whom as the job ends
    try:
        options = ["--standalone", f"--nproc-per-node={processes}", "-m", "segwright", *arguments]
        run(parse_args(options))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
