"""Laws of stages: their times add up, a failed one is told from an ended one, limits are kept.

Faults these laws must catch: a stage entered twice that forgets its first time; a stage that
says it is done when it failed; a limit that is never over.
"""

from __future__ import annotations

import pytest

from allot import stages as module
from allot.stages import Stages, silent


class Clock:
    """A clock that is moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_times_of_stages_are_kept_in_order_and_add_up(clock: Clock) -> None:
    stages = Stages()
    for name, seconds in (("trace", 1.0), ("search", 5.0), ("trace", 2.0)):
        with stages.stage(name):
            clock.now += seconds
    assert stages.seconds == {"trace": 3.0, "search": 5.0}
    assert list(stages.seconds) == ["trace", "search"]


def test_a_stage_reports_its_start_its_shares_and_its_end(clock: Clock) -> None:
    said: list[tuple[str, float]] = []
    with Stages(lambda stage, share: said.append((stage, share))).stage("harm") as progress:
        progress(0.25)
        progress(0.5)
    assert said == [("harm", s) for s in (0.0, 0.25, 0.5, 1.0)]


def test_a_stage_that_fails_is_timed_and_not_reported_as_done(clock: Clock) -> None:
    said: list[float] = []
    stages = Stages(lambda stage, share: said.append(share))
    with pytest.raises(KeyError), stages.stage("export"):
        clock.now += 4
        raise KeyError
    assert stages.seconds == {"export": 4.0} and said == [0.0]


def test_a_limit_is_over_when_its_seconds_are(clock: Clock) -> None:
    stages = Stages(limit=10)
    assert not stages.over()
    clock.now += 9.9
    assert not stages.over()
    clock.now += 0.2
    assert stages.over()


def test_without_a_limit_it_is_never_over(clock: Clock) -> None:
    stages = Stages(silent)
    clock.now += 1e9
    assert not stages.over()
