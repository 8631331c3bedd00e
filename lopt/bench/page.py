"""Tables of pages in docs/, written anew from the figures of a bench.

lopt bench --suite all --json F.json
python -m lopt.bench.page F.json docs/performance.md docs/es_numbers.md
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from lopt.bench import Figure, es, load, report
from lopt.errors import UsageError

PROFILE = "us"  # the unit of the profile's rows
ES = {row.name for row in es.ROWS}
PARTS = {  # of pages: which figures stand there
    "table": lambda f: f.unit != PROFILE and f.expected is None,
    "profile": lambda f: f.unit == PROFILE,
    "es": lambda f: f.name in ES,
}


def filled(text: str, tables: Mapping[str, str]) -> str:
    """A page with new tables between its marks `<!-- NAME -->` and `<!-- end -->`.

    Args:
        tables: by the name of their mark; those that the page has no mark for are left out.

    Raises:
        UsageError: the page has none of the marks, or one without an end.
    """
    known = [name for name in tables if f"<!-- {name} -->\n" in text]
    for name in known:
        head, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, tail = rest.partition("<!-- end -->\n")
        if not end:
            raise UsageError(f"the page has no <!-- end --> after <!-- {name} -->")
        text = head + mark + tables[name] + "\n" + end + tail
    if not known:
        raise UsageError(
            f"the page has none of the marks {', '.join(f'<!-- {n} -->' for n in tables)}"
        )
    return text


def tables(figures: list[Figure]) -> dict[str, str]:
    """The tables of PARTS."""
    return {name: report(filter(belongs, figures)) for name, belongs in PARTS.items()}


if __name__ == "__main__":
    source, *pages = (Path(argument) for argument in sys.argv[1:])
    for page in pages:
        page.write_text(filled(page.read_text(), tables(load(source))))
