"""What was measured, and what is said about it.

A case is named by a tuple, mostly (contestant, placement). Each round adds one dictionary of
numbers to it. A ratio is taken within each round, where both saw the same minute of the machine,
and the median of those is what counts.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Case:
    """One thing to measure, again in every round."""

    key: tuple
    run: Callable[[], dict]


@dataclass
class Samples:
    """The rounds of every case of a topic."""

    rounds: dict[tuple, list[dict]] = field(default_factory=dict)
    absent: dict[tuple, str] = field(default_factory=dict)

    def add(self, key, numbers):
        """Note what a round has measured."""
        self.rounds.setdefault(key, []).append(numbers)

    def has(self, *keys):
        """Whether all of these were measured."""
        return all(key in self.rounds for key in keys)

    def median(self, key, metric):
        """The median over the rounds."""
        return median(numbers[metric] for numbers in self.rounds[key])

    def ratio(self, key, other, metric, of_other=lambda value: value):
        """How many times the metric of `other`, or what `of_other` makes of that."""
        both = zip(self.rounds[key], self.rounds[other], strict=False)
        return median(mine[metric] / of_other(theirs[metric]) for mine, theirs in both)

    def ratio_to_least(self, key, others, metric):
        """How many times the least of the others, and which that is."""
        least = min(others, key=lambda other: self.median(other, metric))
        return self.ratio(key, least, metric), least


@dataclass
class Row:
    """A line of the table."""

    work: str
    where: str
    who: str
    value: str
    cpu: str = ""
    ratio: str = ""
    goal: str = ""
    is_met: bool | None = None

    @property
    def verdict(self):
        """What stands in the last column."""
        return {None: "", True: "met", False: "MISSED"}[self.is_met]


def time_text(microseconds):
    """A time with three figures and a fitting unit."""
    for unit, factor in (("µs", 1), ("ms", 1e3), ("s", 1e6)):
        if microseconds < 999.5 * factor or unit == "s":
            return f"{_three(microseconds / factor)} {unit}"
    raise AssertionError


def rate_text(per_second):
    """A rate with three figures."""
    for unit, factor in (("M/s", 1e6), ("k/s", 1e3)):
        if per_second >= factor:
            return f"{_three(per_second / factor)} {unit}"
    return f"{_three(per_second)} /s"


def times_text(ratio, of):
    """A ratio and what it is to."""
    return f"{_three(ratio)} {TIMES} {of}"


def _three(number):
    for least, decimals in ((99.95, 0), (9.995, 1), (0.0995, 2)):
        if number >= least:
            return f"{number:.{decimals}f}"
    return f"{number:.1g}"


def absent_row(work, key, samples):
    """The line of a case that was not measured, and why not."""
    return Row(work, key[1], key[0], samples.absent.get(key, "not measured"))
