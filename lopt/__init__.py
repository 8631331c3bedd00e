"""lopt: optimizers that are learned instead of designed.

    task  = lopt.task("mlp", data="digits", hidden=(32,), batch_size=64)
    opt   = lopt.optimizer("hierarchical")
    theta = lopt.load_weights("x.h5", opt)
    trace = lopt.rollout(task, opt, theta, steps=1000, seed=0)

    state = opt.init(params)                                   # params: a dict of NumPy arrays of your own
    params, state = opt.update(params, grads, state, loss=loss)

Importing lopt touches no device, no MPI and no command line; the parts are loaded when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> module that defines it.
_PUBLIC = {
    "task": "lopt.tasks",
    "sample_task": "lopt.tasks",
    "optimizer": "lopt.arch",
    "rollout": "lopt.rollout",
    "Schedule": "lopt.rollout",
    "Trace": "lopt.rollout",
    "load_weights": "lopt.store",
    "LoptError": "lopt.errors",
    "Layout": "lopt.layout",
}
_SUBPACKAGES = ("arch", "data", "es", "rng", "tasks")

__all__ = sorted((*_PUBLIC, *_SUBPACKAGES))

if TYPE_CHECKING:
    from lopt.arch import optimizer
    from lopt.errors import LoptError
    from lopt.layout import Layout
    from lopt.rollout import Schedule, Trace, rollout
    from lopt.store import load_weights
    from lopt.tasks import sample_task, task


def __getattr__(name: str) -> Any:
    # `from lopt.rollout import x` binds the submodule as lopt.rollout; the public function of that name wins.
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
        globals()[name] = value
        return value
    if name in _SUBPACKAGES:
        return importlib.import_module(f"lopt.{name}")
    raise AttributeError(f"module 'lopt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
