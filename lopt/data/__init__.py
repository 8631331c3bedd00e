"""Data sets: embedded ones and generators, as arrays with four splits."""

from lopt.data import optional_photos, optional_tables  # noqa: F401 - register theirs
from lopt.data.datasets import (
    DATASETS,
    TEXTS,
    Dataset,
    Text,
    blobs,
    digits,
    from_arrays,
    kjv,
    load,
    load_text,
    split_ranges,
)
from lopt.data.generators import digits1d, digits28, markov, teacher_net, textures
from lopt.data.importing import import_data
from lopt.data.user_file import UserDataset, UserFile, UserText, load_file, load_text_file
from lopt.data.user_info import info

__all__ = [
    "DATASETS",
    "TEXTS",
    "Dataset",
    "Text",
    "UserDataset",
    "UserFile",
    "UserText",
    "blobs",
    "digits",
    "digits1d",
    "digits28",
    "from_arrays",
    "import_data",
    "info",
    "kjv",
    "load",
    "load_file",
    "load_text",
    "load_text_file",
    "markov",
    "split_ranges",
    "teacher_net",
    "textures",
]
