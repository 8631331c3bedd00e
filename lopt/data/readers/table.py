"""Tables with one row a line (.csv, .tsv, plain or gzip): numbers, and one column of classes."""

import csv
import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lopt.data.readers import base
from lopt.data.readers.registry import register_reader
from lopt.errors import DataError, unknown

MAX_LINE = 1 << 20  # characters
MAX_LABEL = 100
BLOCK_LINES = 1024


@register_reader("csv")
def read_csv(
    path: Path, *, target: str = "", header: bool = True, delimiter: str = ",", test: str = ""
) -> base.Rows:
    """A table for classification: every column but the target is a feature.

    target     name of the column of classes, or its number from 0 without a header; the last if empty
    header     whether the first line holds the names of the columns
    delimiter  one character, or "tab"
    test       another table with the same columns: the source's own test set
    Classes may be any text; whole numbers count as numbers.  Columns of other quantities than numbers
    are refused, as are empty cells.  Regression targets are not supported.

    Raises:
        DataError: not UTF-8, ragged, a cell that is no finite number; names line and column.
    """
    delimiter = "\t" if delimiter == "tab" else delimiter
    if len(delimiter) != 1 or delimiter in '\r\n"':
        raise DataError(f"option delimiter = {delimiter!r}, expected one character or tab")
    table = _Table(path, target, header, delimiter)
    train = table.rows()
    return (
        base.joined(train, _Table(Path(test), target, header, delimiter).rows()) if test else train
    )


class _Table:
    """A table whose first line has been read: knows its columns."""

    def __init__(self, path: Path, target: str, header: bool, delimiter: str) -> None:
        self._path, self._header, self._delimiter = path, header, delimiter
        first = next(self._lines(), (1, []))[1]
        if len(first) < 2:
            raise DataError(
                f"{base.shown(path)} has {len(first)} column in its first line, expected 2 or more; "
                f"is {delimiter!r} the delimiter?"
            )
        self._names = first if header else [str(i) for i in range(len(first))]
        if header and all(_is_number(cell) for cell in first):
            raise DataError(f"{base.shown(path)}: its first line holds numbers; say header = no")
        if len(set(self._names)) < len(first):
            raise DataError(f"{base.shown(path)}: two columns have the same name")
        if target and target not in self._names:
            raise DataError(f"{base.shown(path)}: {unknown('column', target, self._names[:50])}")
        self._target = self._names.index(target) if target else len(first) - 1

    def rows(self) -> base.Rows:
        """The table as examples; reads the column of classes."""
        texts: dict[str, str] = {}  # one object for each class
        found: list[str] = []
        for number, cells in self._data():
            label = cells[self._target].strip()
            if not label or len(label) > MAX_LABEL or not label.isprintable():
                raise DataError(
                    f"{self._place(number, self._target)}: {label[:20]!r} names no class"
                )
            found.append(texts.setdefault(label, label))
            if len(found) > base.MAX_ROWS:
                raise DataError(f"{base.shown(self._path)}: more than {base.MAX_ROWS} rows")
        place = base.shown(self._path)
        features = len(self._names) - 1
        base.check_size(place, len(found), 8 * features)
        if all(_is_whole(label) for label in texts):
            labels = np.array([int(label) for label in found])
        elif all(_is_number(label) for label in texts):
            raise DataError(
                f"{place}: column {self._names[self._target]} holds quantities such as {found[0]}, not "
                "classes; regression is not supported"
            )
        else:
            labels = np.array(found, dtype=object)
        return base.Rows(
            (self._path,),
            (features,),
            np.dtype(np.float64),
            labels,
            self._blocks,
            ((0, place),),
            default_scale="column",
        )

    def _blocks(self) -> Iterator[np.ndarray]:
        step = min(BLOCK_LINES, base.block_rows(8 * len(self._names)))
        block: list[list[float]] = []
        for number, cells in self._data():
            block.append(self._numbers(number, cells))
            if len(block) == step:
                yield np.array(block)
                block = []
        if block:
            yield np.array(block)

    def _numbers(self, line: int, cells: list[str]) -> list[float]:
        values = []
        for column, cell in enumerate(cells):
            if column == self._target:
                continue
            if not _is_number(cell):
                raise DataError(f"{self._place(line, column)}: {cell[:20]!r} is no number")
            values.append(float(cell))
        return values

    def _place(self, line: int, column: int) -> str:
        name = self._names[column]
        name = name[:30] if name.isprintable() else ascii(name[:30])
        return f"{base.shown(self._path)}, line {line}, column {name}"

    def _data(self) -> Iterator[tuple[int, list[str]]]:
        """(line number, cells) of each line behind the header, as many cells as there are columns."""
        for number, cells in itertools.islice(self._lines(), int(self._header), None):
            if len(cells) != len(self._names):
                raise DataError(
                    f"{base.shown(self._path)}, line {number}: {len(cells)} columns, "
                    f"expected {len(self._names)}"
                )
            yield number, cells

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """(line number from 1, cells) of each line that is not empty."""
        base.regular_file(self._path)
        with base.reading(self._path), base.open_stream(self._path) as file:
            text = io.TextIOWrapper(file, "utf-8-sig", newline="")
            reader = csv.reader(self._short(text), delimiter=self._delimiter, strict=True)
            try:
                yield from ((reader.line_num, cells) for cells in reader if cells)
            except csv.Error as error:
                raise DataError(
                    f"{base.shown(self._path)}, line {reader.line_num}: {error}"
                ) from error

    def _short(self, text: io.TextIOWrapper) -> Iterator[str]:
        """Lines of bounded length: a file without line ends must not fill the memory."""
        number = 0
        while line := text.readline(MAX_LINE):
            number += 1
            if len(line) == MAX_LINE:
                raise DataError(
                    f"{base.shown(self._path)}, line {number}: longer than {MAX_LINE} characters"
                )
            yield line


def _is_number(cell: str) -> bool:
    """A finite decimal number; not nan, inf or 1_000."""
    try:
        return np.isfinite(float(cell)) and "_" not in cell
    except ValueError:
        return False


def _is_whole(label: str) -> bool:
    return (
        label.isascii()
        and label.lstrip("-").isdigit()
        and len(label) <= 9
        and label.rfind("-") <= 0
    )
