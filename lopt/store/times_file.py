"""Files of task timings: what one training step of every task costs on a machine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lopt.store import container


def save_times(
    path: str | Path,
    names: Sequence[str],
    families: Sequence[str],
    params: Sequence[int],
    milliseconds: Sequence[float],
    provenance: Mapping[str, Any],
) -> Path:
    """Write a timing file.

    Raises:
        StoreError: `path` exists, or a write failed.
    """
    path = Path(path)
    container.refuse_existing(path)
    datasets = {
        "/task": list(names),
        "/family": list(families),
        "/params": np.asarray(params, np.int64),
        "/ms": np.asarray(milliseconds, np.float64),
    }
    image = container.seal("times", {"provenance": dict(provenance)}, datasets)
    temporary = container.write_temporary(path, image)
    try:
        container.replace(temporary, path)
    except OSError as error:
        raise container.write_failed(path, error, temporary) from error
    return path


class TimesReader:
    """Content of a timing file: tasks, families (names), params, ms (arrays over tasks), provenance.

    Raises:
        StoreError: missing, empty, foreign, of another schema, truncated or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with container.unsealed(self.path, "times") as file:
            self.provenance = container.get_attributes(file, "times")["provenance"]
            self.tasks = tuple(container.get_array(file, "/task"))
            self.families = tuple(container.get_array(file, "/family"))
            self.params = container.get_array(file, "/params")
            self.ms = container.get_array(file, "/ms")

    def share_below(self, limit_ms: float) -> float:
        """Share of the tasks whose step takes less than `limit_ms`."""
        return float((self.ms < limit_ms).mean())
