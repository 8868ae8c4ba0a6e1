"""The results as a table for a terminal, as a page for the documentation, and as numbers."""

import json

_COLUMNS = ("work", "where", "who", "value", "CPU", "ratio", "goal", "")


def _cells(row):
    return (row.work, row.where, row.who, row.value, row.cpu, row.ratio, row.goal, row.verdict)


def _used(rows):
    """The columns that say anything in these rows."""
    cells = [_cells(row) for row in rows]
    return [i for i in range(len(_COLUMNS)) if any(line[i] for line in cells)]


def plain(rows):
    """Columns in line, the work and the place only where they change."""
    columns = _used(rows)
    lines = [[_COLUMNS[i] for i in columns], *([_cells(row)[i] for i in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )
    return "\n".join(line.rstrip() for line in padded)


def _markdown(rows):
    columns = _used(rows)
    lines = [[_COLUMNS[i] for i in columns], ["---"] * len(columns)]
    for row in rows:
        cells = _cells(row)
        lines.append([f"**{cells[i]}**" if row.who == "alongside" else cells[i] for i in columns])
    return "\n".join(f"| {' | '.join(_without_void(line))} |" for line in lines)


def _without_void(line):
    return ["" if cell == "****" else cell for cell in line]


def judged(reports):
    """The rows with a goal."""
    return [row for _, rows in reports for row in rows if row.is_met is not None]


def summary(reports):
    """How many goals were met, and which were not."""
    rows = judged(reports)
    missed = [row for row in rows if not row.is_met]
    lines = [f"{len(rows) - len(missed)} of {len(rows)} goals met"]
    lines += [
        f"  MISSED  {row.work}, {row.where}: {row.value} ({row.ratio or 'alone'}), goal {row.goal}"
        for row in missed
    ]
    return "\n".join(lines)


def page(machine, settings, reports, plots):
    """The page `results.md`."""
    parts = [
        "# Speed, measured",
        "Written by `make bench`, which measures everything in one run, its contestants in turn, "
        f"{settings.rounds} rounds; medians, and ratios taken within a round. Each measurement has "
        "fresh processes of its own. What each contestant may use stands in "
        "`benches/contestants/`. Raw numbers: `results.json`.",
        "\n".join(f"- {name}: {value}" for name, value in machine.items()),
        *(f"![{text}]({file})" for file, text in plots.items()),
    ]
    for topic, rows in reports:
        parts += [f"## {topic.TITLE}", topic.METHOD, _markdown(rows)]
    return "\n\n".join(parts) + "\n"


def numbers(machine, settings, measured):
    """The text of `results.json`: every round of every case."""
    topics = {
        name: {
            "rounds": {" / ".join(map(str, key)): rounds for key, rounds in samples.rounds.items()},
            "absent": {" / ".join(map(str, key)): why for key, why in samples.absent.items()},
        }
        for name, samples in measured.items()
    }
    told = {"machine": machine, "settings": vars(settings), "topics": topics}
    return json.dumps(told, indent=1) + "\n"
