"""The tables of docs/performance.md, written anew from the figures of a bench.

lopt bench --suite all --json F.json; python -m lopt.bench.page F.json docs/performance.md
"""

import sys
from pathlib import Path

from lopt.bench import Figure, load, report
from lopt.errors import UsageError

PROFILE = "us"  # the unit of the profile's rows
PARTS = {  # of the page: which figures stand there
    "table": lambda f: f.unit != PROFILE and f.expected is None,
    "profile": lambda f: f.unit == PROFILE,
}


def filled(text: str, figures: list[Figure]) -> str:
    """The page with new tables between its marks `<!-- NAME -->` and `<!-- end -->`.

    Raises:
        UsageError: a mark is missing.
    """
    for name, belongs in PARTS.items():
        head, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, tail = rest.partition("<!-- end -->\n")
        if not mark or not end:
            raise UsageError(f"the page has no marks <!-- {name} --> and <!-- end -->")
        text = head + mark + report(filter(belongs, figures)) + "\n" + end + tail
    return text


if __name__ == "__main__":
    source, target = (Path(argument) for argument in sys.argv[1:])
    target.write_text(filled(target.read_text(), load(source)))
