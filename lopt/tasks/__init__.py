"""Task families, one file each.  A new family: its file here, one import line below, and its tests come by themselves."""

from lopt.task import TASKS
from lopt.tasks import (  # importing registers
    char_rnn,
    conv_fc,
    conv_pooling,
    functions2d,
    logistic,
    losg,
    maf,
    mlp,
    mlp_ae,
    mlp_vae,
    nvp,
    quadratic,
    rnn_text,
    sequences,
    word_rnn,
)
from lopt.tasks.names import (
    describe_families,
    describe_task,
    parse_task,
    parse_task_spec,
    sample_task,
    task,
)

__all__ = [
    "TASKS",
    "char_rnn",
    "conv_fc",
    "conv_pooling",
    "describe_families",
    "describe_task",
    "functions2d",
    "logistic",
    "losg",
    "maf",
    "mlp",
    "mlp_ae",
    "mlp_vae",
    "nvp",
    "parse_task",
    "parse_task_spec",
    "quadratic",
    "rnn_text",
    "sample_task",
    "sequences",
    "task",
    "word_rnn",
]
