"""How long a run takes: the full one about a quarter of an hour, the quick one about one minute."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What the topics ask."""

    rounds: int = 5
    seconds: float = 0.5  # of each measurement, beside its warm-up
    large_seconds: float = 0.6  # where a message takes milliseconds
    size_step: int = 4
    starts: int = 10  # in each round
    idle_seconds: float = 5.0


FULL = Settings()
QUICK = Settings(
    rounds=2, seconds=0.1, large_seconds=0.15, size_step=32, starts=4, idle_seconds=1.0
)
