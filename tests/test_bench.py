"""What `lopt bench` counts; what it times is nobody's promise here."""

import re
from pathlib import Path

import numpy as np
import pytest

from lopt.bench import cpu, es, launcher, line, load, noise, page, run_suite, save
from lopt.bench.measure import Figure, Measured, Row
from lopt.errors import UsageError
from lopt.layout import Layout
from lopt.optimizer import optimizer
from lopt.plots import figures_of


@pytest.mark.parametrize(
    ("value", "at_most", "share", "reached"),
    [
        (50.0, False, 0.5, False),
        (90.0, False, 0.9, True),
        (200.0, True, 0.5, False),
        (125.0, True, 0.8, True),
    ],
)
def test_a_row_beside_its_floor_and_what_was_asked(value, at_most, share, reached):
    """Rates shall be high, times low; the share of the floor is at most 1 for both."""
    asked = 150.0 if at_most else 80.0
    row = Row("r", "u", lambda: Measured(value, 97.0, 100.0), asked, at_most, "a peer", 7.0)
    found = row.figure()
    assert found.share == pytest.approx(share)
    assert found.reached is reached
    sign = "<=" if at_most else ">="
    cells = f"r | {value:.3g} | u | {sign} {asked:.3g} | {'yes' if reached else 'no'}"
    assert line(found) == f"| {cells} | {100 * share:.0f} % | 97 | 7, a peer |"


def test_what_could_not_be_measured_says_why():
    found = Row("r", "u", lambda: Measured(None, note="no such device"), 3.0).figure()
    assert found.reached is None
    assert line(found) == "| r | - | no such device | >= 3 |  |  |  |  |"


def test_multiply_adds_of_an_update():
    """1,824 a parameter and 116 x 256 a tensor; 88 a parameter; 1,344."""
    layout = Layout([("w", (30, 10)), ("b", (10,))])
    found = cpu.operations(optimizer("hierarchical"), layout)
    assert found == 2 * (1824 * 310 + 116 * 256 * 2)
    assert cpu.operations(optimizer("adafac_mlp"), layout) == 2 * 88 * 310
    assert cpu.operations(optimizer("mlp"), layout) == 2 * 1344 * 310


def test_figures_come_back_from_a_file(tmp_path: Path):
    figures = [
        Figure("r", 1.5, "u", 2.0, True, "p", 3.0, 97.0, 1.0),
        Figure("g", None, "u", note="no"),
    ]
    save(figures, tmp_path / "f.json")
    assert load(tmp_path / "f.json") == figures


@pytest.mark.parametrize("text", ["", "{}x", '[{"name": "r"}]', '[{"what": 1}]', "[1]"])
def test_other_files_are_refused(tmp_path: Path, text):
    path = tmp_path / "f.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="holds no figures of `lopt bench`"):
        load(path)


def test_the_roofline_draws_costs(tmp_path: Path):
    """A rate of half its floor costs twice, a time of thrice its floor costs thrice; peers and wishes likewise."""
    rows = [
        Figure("a rate", 50.0, "/s", 80.0, False, "p", 10.0, 97.0, 100.0),
        Figure("a time", 30.0, "ns", 20.0, True, "p", 80.0, 97.0, 10.0),
        Figure("no floor", 4.0, "s", 2.0, True, "p", 8.0),
        Figure("not measured", None, "s", 2.0),
    ]
    save(rows, tmp_path / "f.json")
    (figure,) = figures_of(tmp_path / "f.json").values()
    marks = [[(*ln.get_xdata(), *ln.get_ydata()) for ln in ax.lines] for ax in figure.axes]
    drawn = [sorted(m for m in part if len(m) == 2) for part in marks]
    rate, time = [(1, 0), (2, 0), (1.25, 0), (10, 0)], [(1, 1), (3, 1), (2, 1), (8, 1)]
    assert drawn[0] == sorted(rate + time)
    assert drawn[1] == [(1, 0), (2, 0), (4, 0)]


def test_tables_of_a_page_are_written_anew():
    text = "a\n<!-- table -->\nold\n<!-- end -->\nb\n<!-- profile -->\n<!-- end -->\nc\n"
    rows = [Figure("r", 2.0, "s"), Figure("part", 3.0, "us")]
    once = page.filled(text, page.tables(rows))
    assert page.filled(once, page.tables(rows)) == once
    table, profile = once.split("b\n")
    assert ("old" in once, line(rows[0]) in table, line(rows[1]) in profile) == (False, True, True)
    assert (once[:2], once[-2:], "part" in table) == ("a\n", "c\n", False)
    with pytest.raises(UsageError, match="none of the marks <!-- table -->, <!-- profile -->"):
        page.filled("c\n", page.tables(rows))
    with pytest.raises(UsageError, match="no <!-- end --> after <!-- profile -->"):
        page.filled("<!-- profile -->\nc\n", page.tables(rows))


@pytest.mark.parametrize(
    ("name", "rows"), [("performance.md", cpu.ROWS), ("performance.md", es.ROWS), ("es_numbers.md", es.ROWS)]
)  # fmt: skip
def test_pages_have_the_rows_of_today(name, rows):
    text = (Path(__file__).parent.parent / "docs" / name).read_text()
    missing = [row.name for row in rows if f"| {row.name} |" not in text]
    assert missing == [], f"write docs/{name} anew: python -m lopt.bench.page"


def test_a_command_for_ranks_begins_with_mpirun(monkeypatch):
    monkeypatch.setenv("LOPT_MPIRUN", "/own/mpirun")
    assert (launcher(1), launcher(3)) == ([], ["/own/mpirun", "-n", "3"])


def test_an_unknown_suite_is_refused():
    with pytest.raises(UsageError, match="unknown suite 'cpus'; did you mean 'cpu'"):
        next(run_suite("cpus"))


def test_bytes_of_a_pair():
    """Two float64 losses a pair, and nothing else crosses the network."""
    assert es.bytes_of_a_pair(pairs=7) == es.bytes_of_a_pair(pairs=50) == 16


def test_memory_of_a_step_knows_nothing_of_the_pairs():
    """Peak of a process of its own: some 11 floats a coordinate, where 126 more perturbations would be as many more."""
    few, many = (es.floats_of_a_step(1_000_000, pairs) for pairs in (2, 128))
    assert 4 < few < 12 and many < few + 0.5


def test_error_of_a_table_is_what_the_page_predicts():
    """Coordinates of random sign, as many pairs as numbers; the figure's own error is told with it."""
    g = noise.GRADIENTS["coordinates of random sign"]()
    m = noise.SMALL
    found = [noise.relative_error(m, g, m, seed) for seed in range(30)]
    predicted = noise.predicted(g, m, m)
    assert abs(np.mean(found) - predicted) < 5 * np.std(found) / np.sqrt(len(found))
    assert predicted > 1.9 * noise.predicted(g, m, 0)


def test_the_page_about_the_noise_table_has_the_text_and_rows_of_today():
    """Its figures are a machine's; everything else follows from the code."""
    page = (Path(__file__).parent.parent / "docs" / "noise_table.md").read_text()
    tables = [noise.name_of(size) for size in noise.SIZES]
    names = [f"{t}: {what}" for t in tables for what in ("memory of a node", "making it, one core")]
    for label in ("made anew", *tables):
        for n, pairs in noise.SHAPES:
            names += [f"{label}: sum, {n} x {pairs}", f"{label}: one perturbation of {n}"]
    for kind in noise.GRADIENTS:
        for ratio in noise.RATIOS:
            names += [
                f"error, {how}, {kind}, {ratio:g} M pairs" for how in ("made anew", "looked up")
            ]
    blank = [Figure(name, 0.0, "", expected=0.0, error=0.0) for name in names]
    number = re.compile(r"\d+(\.\d+)?")
    same = [number.sub("0", text) for text in (noise.page(blank, 0.0) + "\n", page)]
    assert same[0] == same[1], "write docs/noise_table.md anew: python -m lopt.bench.noise"
