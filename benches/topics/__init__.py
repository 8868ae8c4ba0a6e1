"""The kinds of work, in the order of the report.

A topic is a module with

    TITLE               what the report calls it
    METHOD              how it is measured, in a sentence or two for the reader of the report
    cases(settings)     what to measure in each round
    rows(samples)       what the report says about it
"""

from . import (
    arrays,
    asyncio_tasks,
    busy_thread,
    death,
    idle,
    imports,
    large,
    lending,
    names,
    one_way,
    round_trip,
    shared,
    sizes,
    start,
    views,
)

ALL = {
    "round-trip": round_trip,
    "one-way": one_way,
    "sizes": sizes,
    "large": large,
    "views": views,
    "arrays": arrays,
    "lending": lending,
    "asyncio": asyncio_tasks,
    "busy-thread": busy_thread,
    "start": start,
    "import": imports,
    "idle": idle,
    "death": death,
    "names": names,
    "shared": shared,
}
