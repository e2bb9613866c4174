"""One command as several processes, each with a share of the examples."""

import logging
import os
import sys

from pipeline.errors import AnatomyError


def spread(processes: int) -> None:
    """Run several processes of this command under torchrun and end, unless this is one of them.

    A refusal stays what the log ends with: torchrun's own report of it would hide it.
    """
    if processes <= 1 or "WORLD_SIZE" in os.environ:
        return
    logging.disable()
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    launched = ["--standalone", f"--nproc-per-node={processes}", "-m", "pipeline", *sys.argv[1:]]
    try:
        torchrun(launched)
    except SignalException as error:
        raise AnatomyError(str(error)) from error
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            said = f"process {rank} of {processes}: {failure.message}"
            raise AnatomyError(said) from error
        sys.exit(1)
    sys.exit(0)
