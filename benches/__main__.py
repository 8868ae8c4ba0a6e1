"""Runs the topics and reports: `python -m benches [--quick] [--only TOPIC] [--out FOLDER]`."""

import argparse
import sys
from pathlib import Path

from . import machine, plot, report, settings, topics
from .contestants import NotInstalledError
from .processes import ROOT, FailedError
from .samples import Samples

_PUBLISHED = ROOT / "docs" / "speed"


def _arguments():
    parser = argparse.ArgumentParser(prog="python -m benches", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few short rounds, no goals proven")
    parser.add_argument(
        "--only",
        action="append",
        choices=topics.ALL,
        metavar="TOPIC",
        help=f"one of {', '.join(topics.ALL)}; may be repeated",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help=f"folder for the page, the numbers and the plot; of itself only a full run writes, to "
        f"{_PUBLISHED.relative_to(ROOT)}",
    )
    return parser.parse_args()


def _say(text):
    sys.stderr.write(f"\r\033[K{text}")
    sys.stderr.flush()


def _measure(name, chosen):
    """All cases of a topic in turn, round after round, each round beginning with another."""
    samples = Samples()
    cases = topics.ALL[name].cases(chosen)
    for number in range(chosen.rounds):
        first = number * len(cases) // chosen.rounds
        for case in cases[first:] + cases[:first]:
            if case.key in samples.absent:
                continue
            _say(f"{name} {number + 1}/{chosen.rounds}: {', '.join(map(str, case.key))}")
            try:
                samples.add(case.key, case.run())
            except NotInstalledError:
                samples.absent[case.key] = "not installed"
            except FailedError as error:
                # One that fails once is out: its rounds would have no counterparts.
                samples.absent[case.key] = f"failed: {error}"
                samples.rounds.pop(case.key, None)
    _say("")
    return samples


def _write(folder, about, chosen, measured, reports):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(report.numbers(about, chosen, measured))
    plots = {}
    if "sizes" in measured and (curves := topics.sizes.curves(measured["sizes"])):
        plot.draw(curves, topics.sizes.is_view, about, folder)
        plots["latency.svg"] = "Round trip by message size"
    if "lending" in measured and (curves := topics.lending.curves(measured["lending"])):
        plot.draw_lending(curves, about, folder)
        plots["lending.svg"] = "Handing lent memory over, by its size"
    (folder / "results.md").write_text(report.page(about, chosen, reports, plots))


def main():
    """Measure, print, write."""
    arguments = _arguments()
    chosen = settings.QUICK if arguments.quick else settings.FULL
    about = machine.description()
    print("\n".join(f"{name:12} {value}" for name, value in about.items()))
    measured, reports = {}, []
    for name in arguments.only or topics.ALL:
        measured[name] = _measure(name, chosen)
        rows = topics.ALL[name].rows(measured[name])
        reports.append((topics.ALL[name], rows))
        print(f"\n{report.plain(rows)}", flush=True)
    print(f"\n{report.summary(reports)}")
    is_whole = not arguments.quick and not arguments.only
    if folder := arguments.out or (_PUBLISHED if is_whole else None):
        _write(folder, about, chosen, measured, reports)
        print(f"written to {folder}")


if __name__ == "__main__":
    main()
