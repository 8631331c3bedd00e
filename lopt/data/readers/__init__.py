"""Readers of the user's own data: one file for each format, streaming, never a pickle.

A new format: its file here with a function under `@register_reader`, and its import line below.
"""

from lopt.data.readers import (
    cifar_binary,
    hdf5,
    idx,
    image_folder,
    imagenet_npz,
    npz,
    table,
    text,
)
from lopt.data.readers.base import BLOCK_BYTES, Rows, Source, Tokens
from lopt.data.readers.registry import READERS, guess_format, open_source, options_of

__all__ = [
    "BLOCK_BYTES",
    "READERS",
    "Rows",
    "Source",
    "Tokens",
    "cifar_binary",
    "guess_format",
    "hdf5",
    "idx",
    "image_folder",
    "imagenet_npz",
    "npz",
    "open_source",
    "options_of",
    "table",
    "text",
]
