"""Data sets: embedded ones and generators, as arrays with four splits."""

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

__all__ = [
    "DATASETS",
    "TEXTS",
    "Dataset",
    "Text",
    "blobs",
    "digits",
    "from_arrays",
    "kjv",
    "load",
    "load_text",
    "split_ranges",
]
