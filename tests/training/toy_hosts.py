"""The toy trainer in one of several processes.

`python -m tests.training.toy_hosts WORKDIR NUM_STEPS NUM_SEEDS PORT NUM_PROCESSES PROCESS_ID`

`STORE_OF_TESTS` names a folder that takes the place of `gs://`, see `tests.stores`.
"""

import os
import sys

from internal_rl import hosts
from internal_rl.interruption import Interrupted
from internal_rl.training.loop import run_stage
from tests.training.toy import make_stage

if __name__ == "__main__":
    workdir, num_steps, num_seeds, port, num_processes, process_id = sys.argv[1:]
    if "STORE_OF_TESTS" in os.environ:
        from tests import stores

        objects = stores.Objects(os.environ["STORE_OF_TESTS"])
        stores.use_store(objects, "gs", dict.__setitem__, setattr)
    hosts.connect(f"localhost:{port}", int(num_processes), int(process_id))
    stage = make_stage(int(num_steps), tuple(range(int(num_seeds))), snapshot_steps=(8,))
    try:
        run_stage(stage, workdir)
    except Interrupted as interrupted:
        sys.exit(interrupted.exit_code)
