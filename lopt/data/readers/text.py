"""Text files, plain or gzip: as bytes, as characters, or as words with a vocabulary."""

import codecs
import collections
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lopt.data.readers import base
from lopt.data.readers.registry import register_reader
from lopt.errors import DataError, unknown

PIECE = 1 << 20  # bytes decoded at a time
MAX_WORD = 1000  # characters; more is no word
MAX_WORDS = 1 << 22  # different words; they are held in memory
UNKNOWN = "<unk>"
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "ascii", "latin-1", "cp1252")
WORD_RUN = re.compile(r"\w+")
WORD = re.compile(r"\w+|[^\w\s]")


@register_reader("bytes")
def read_bytes(path: Path) -> base.Tokens:
    """A text as it lies in the file: a token is a byte, 0..255.

    Raises:
        DataError: empty, not a regular file, or damaged gzip.
    """

    def blocks() -> Iterator[np.ndarray]:
        for _, piece in _pieces(path):
            yield np.frombuffer(piece, np.uint8)

    return base.Tokens((path,), _count(path, (len(b) for b in blocks())), (), blocks)


@register_reader("chars")
def read_chars(path: Path, *, vocabulary: int = 0, encoding: str = "utf-8") -> base.Tokens:
    """A text as characters; line ends and case are kept.

    vocabulary  0: all characters, numbered by code point; N: token 0 is "<unk>", 1..N-1 the most
                frequent characters of the text
    encoding    utf-8, utf-8-sig, utf-16, ascii, latin-1 or cp1252

    Raises:
        DataError: as `read_bytes`, or bytes that the encoding does not know; names the offset.
    """
    counts: collections.Counter[int] = collections.Counter()
    for text in _decoded(path, encoding):
        points, n = np.unique(_points(text), return_counts=True)
        counts.update(dict(zip(points.tolist(), n.tolist(), strict=True)))
    if vocabulary:
        kept = _most_frequent(counts, vocabulary)
        names = (UNKNOWN, *map(chr, kept))
    else:
        kept = sorted(counts)
        names = tuple(map(chr, kept))
    first = len(names) - len(kept)
    order = np.argsort(kept)
    points = np.array(kept, np.uint32)[order]

    def blocks() -> Iterator[np.ndarray]:
        for text in _decoded(path, encoding):
            wanted = _points(text)
            at = np.minimum(np.searchsorted(points, wanted), len(points) - 1)
            yield np.where(points[at] == wanted, order[at] + first, 0).astype(np.int32)

    return base.Tokens((path,), _count(path, counts.values()), names, blocks)


@register_reader("words")
def read_words(path: Path, *, vocabulary: int = 10000, encoding: str = "utf-8") -> base.Tokens:
    """A text as words and punctuation marks; white space is dropped, case is kept.

    A word is a run of letters, digits and underscores, any other character that is no white space a
    token of its own.

    vocabulary  token 0 is "<unk>", 1..vocabulary-1 the most frequent words of the text
    encoding    as for characters

    Raises:
        DataError: as `read_chars`, or a run of more than 1000 characters without a break.
    """
    counts: collections.Counter[str] = collections.Counter()
    for words in _words(path, encoding):
        counts.update(words)
        if len(counts) > MAX_WORDS:
            raise DataError(f"{base.shown(path)} has more than {MAX_WORDS} different words")
    kept = _most_frequent(counts, vocabulary)
    numbers = {word: i for i, word in enumerate(kept, 1)}

    def blocks() -> Iterator[np.ndarray]:
        for words in _words(path, encoding):
            yield np.array([numbers.get(w, 0) for w in words], np.int32)

    return base.Tokens((path,), _count(path, counts.values()), (UNKNOWN, *kept), blocks)


def _count(path: Path, counts: Iterable[int]) -> int:
    total = sum(counts)
    if not total:
        raise DataError(f"{base.shown(path)} holds no token")
    return total


def _most_frequent(counts: "collections.Counter[Any]", vocabulary: int) -> list[Any]:
    """The vocabulary - 1 most frequent keys; of equals, the smaller comes first."""
    if vocabulary < 2:
        raise DataError(f"option vocabulary = {vocabulary}, nearest valid: 2")
    return sorted(counts, key=lambda key: (-counts[key], key))[: vocabulary - 1]


def _points(text: str) -> np.ndarray:
    """Code points, uint32."""
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def _pieces(path: Path) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of the text, unpacked."""
    base.regular_file(path)
    offset = 0
    with base.reading(path), base.open_stream(path) as file:
        while piece := file.read(PIECE):
            yield offset, piece
            offset += len(piece)


def _decoded(path: Path, encoding: str) -> Iterator[str]:
    """The text in pieces."""
    if encoding not in ENCODINGS:
        raise DataError(unknown("encoding", encoding, ENCODINGS))
    decoder = codecs.getincrementaldecoder(encoding)()
    end = 0
    try:
        for offset, piece in _pieces(path):
            end = offset - len(decoder.getstate()[0])  # bytes of an unfinished character wait there
            text = decoder.decode(piece)
            if "\0" in text:
                raise DataError(f"{base.shown(path)} has a NUL soon after offset {end}: no text")
            yield text
            end = offset + len(piece) - len(decoder.getstate()[0])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{base.shown(path)} is not {encoding} at offset {end + error.start}: {error.reason}"
        ) from error


def _words(path: Path, encoding: str) -> Iterator[list[str]]:
    """The words of the text in pieces; one that a piece cuts waits for the next piece."""
    rest, n = "", 0
    for text in _decoded(path, encoding):
        text = rest + text
        words = WORD.findall(text)
        open_end = bool(words) and text.endswith(words[-1]) and WORD_RUN.fullmatch(words[-1])
        rest = words.pop() if open_end else ""
        if max(map(len, words), default=0) > MAX_WORD or len(rest) > MAX_WORD:
            raise DataError(
                f"{base.shown(path)} has a word of more than {MAX_WORD} characters, "
                f"{n} words or more from its start"
            )
        n += len(words)
        yield words
    if rest:
        yield [rest]
