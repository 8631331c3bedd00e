"""HDF5 files: the run log, checkpoints, weights, evaluations and curves.  What they hold is the table in `schema`."""

from lopt.store.checkpoint import Checkpoint, load_checkpoint, read_checkpoint, save_checkpoint
from lopt.store.container import kind_of, refuse_existing
from lopt.store.curves_file import Curves, EntrantInfo, no_runs, read_curves, save_curves
from lopt.store.eval_file import EvalReader, EvalRow, save_eval
from lopt.store.info import info
from lopt.store.provenance import provenance
from lopt.store.run_file import COLUMNS, RunReader, RunWriter
from lopt.store.schema import SCHEMA, VERSION, schema_markdown
from lopt.store.search_file import SearchReader, save_search
from lopt.store.times_file import TimesReader, save_times
from lopt.store.weights import Weights, load_weights, read_weights, save_weights, shipped

__all__ = [
    "COLUMNS",
    "SCHEMA",
    "VERSION",
    "Checkpoint",
    "Curves",
    "EntrantInfo",
    "EvalReader",
    "EvalRow",
    "RunReader",
    "RunWriter",
    "SearchReader",
    "TimesReader",
    "Weights",
    "info",
    "kind_of",
    "load_checkpoint",
    "load_weights",
    "no_runs",
    "provenance",
    "read_checkpoint",
    "read_curves",
    "read_weights",
    "refuse_existing",
    "save_checkpoint",
    "save_curves",
    "save_eval",
    "save_search",
    "save_times",
    "save_weights",
    "schema_markdown",
    "shipped",
]
