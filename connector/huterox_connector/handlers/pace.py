"""How much of the time goes to peers who send faster than their turns come.

Problem: to refuse costs as much as to serve, so who sends again whatever he is told keeps the switchboard busy, and
takes the processor from those who work for others. Idea: after some work for such peers there is a rest from it, in
proportion, if somebody else has sent something lately. Their messages wait meanwhile, and they with them. Who is alone
never waits. Time is the wall's: where the machine has too much to do, work takes longer, and so do rests.
"""

from typing import Final

WORK_S: Final = 0.001
REST_FACTOR: Final = 7.0
"""A rest is so many times as long as the work before it: an eighth of the time is theirs."""

REST_S_MAX: Final = 0.05
SHARED_S: Final = 1.0
"""So long after somebody else has sent something it is still his time, too."""


class Pace:
    """`rests`: nothing is done for those who are behind. `others_s`: when somebody else has last sent something."""

    def __init__(self) -> None:
        self.rests = False
        self.others_s = -SHARED_S
        self._worked_s = 0.0

    def worked(self, seconds: float, now_s: float) -> float:
        """So long for one who is behind. How long to rest from now on, 0 for not at all; tell of the end of a rest."""
        self._worked_s += seconds
        if self._worked_s < WORK_S:
            return 0.0
        rest_s = min(REST_FACTOR * self._worked_s, REST_S_MAX)
        self._worked_s = 0.0
        self.rests = now_s - self.others_s < SHARED_S
        return rest_s if self.rests else 0.0

    def rested(self) -> None:
        """The rest is over."""
        self.rests = False
