"""Progress of long work on rank 0: a bar on a terminal, now and then a plain line elsewhere (a job's log)."""

import sys
import time

from tqdm import tqdm

LINE_SECONDS = 10.0
FORMAT = "{n_fmt} of {total_fmt} {unit}s, {elapsed} elapsed, {rate_fmt}{postfix}"


class Progress:
    """Counts towards a total; silent where `show` is False.

    Use as a context manager; `update(n, text)` sets the count and a short note.
    """

    def __init__(self, total: int, unit: str, show: bool, initial: int = 0) -> None:
        self._total, self._unit, self._show = total, unit, show
        self._initial, self._begin, self._last = initial, time.monotonic(), 0.0
        terminal = show and sys.stderr.isatty()
        self._bar = tqdm(total=total, unit=unit, initial=initial) if terminal else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, n: int, text: str = "") -> None:
        """`n` of the total are done."""
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(n - self._bar.n)
        elif self._show and (n >= self._total or time.monotonic() - self._last >= LINE_SECONDS):
            self._last = time.monotonic()
            elapsed = self._last - self._begin
            meter = tqdm.format_meter(
                n,
                self._total,
                elapsed,
                unit=self._unit,
                initial=self._initial,
                postfix=text or None,
                bar_format=FORMAT,
            )
            print(meter, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A line beside the bar."""
        if self._show:
            tqdm.write(text, file=sys.stderr)
