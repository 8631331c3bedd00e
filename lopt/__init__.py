"""lopt: optimizers that are learned instead of designed.

    task  = lopt.task("mlp", data="digits", hidden=(32,), batch_size=64)
    opt   = lopt.optimizer("hierarchical")
    theta = lopt.load_weights("x.h5").theta
    trace = lopt.rollout(task, opt, theta, steps=1000, seed=0)

    opt, state = lopt.load_weights("compass").start(params)    # params: a dict of NumPy arrays of your own
    params, state = opt.update(params, grads, state, loss=loss)

Importing lopt touches no device, no MPI, no HDF5 and no command line.
"""

from typing import Any

from lopt import arch, data, es, meta_task, rng, search_files, tasks
from lopt.errors import LoptError
from lopt.layout import Layout
from lopt.optimizer import optimizer
from lopt.rollout import Schedule, Trace, rollout
from lopt.tasks import sample_task, task

__version__ = "0.1.0"

__all__ = [
    "Layout",
    "LoptError",
    "Schedule",
    "Trace",
    "arch",
    "data",
    "es",
    "load_weights",
    "meta_task",
    "optimizer",
    "rng",
    "rollout",
    "sample_task",
    "search_files",
    "task",
    "tasks",
]


def load_weights(path: str) -> Any:
    """Read a weights file (see `lopt.store.load_weights`); HDF5 is loaded on the first call only."""
    from lopt import store

    return store.load_weights(path)
