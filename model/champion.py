"""Champion and challenger: which is published, the learnt head or the frozen network.

Evidence is a bet: wealth prod(1 + lambda d) on bounded differences d of mean loss over epochs that do not overlap. If
the champion is no worse, wealth does not grow on average but for what the floor adds, 1/20 a bet at most; so it reaches
20 within n bets with a chance of (1 + n / 20) / 20 at most. Source: Choe and Ramdas, comparing sequential forecasters
(2023); the floor makes it an e-detector of Shin, Ramdas and Rinaldo (2022).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec
import numpy as np

from model.estimation import NEVER, WIDTHS, Labels
from model.heads import LEAST, Floats
from streams import negative_binomial
from streams.calendars import DAY
from streams.records import DELAYS

BETS = (0.1, 0.3, 0.6)  # lambdas; the wealth is their mean
BETTING = (0, 1)  # delays that bet; the last one only vetoes
THRESHOLD = 20.0
FLOOR = 1 / 20  # merits of long ago do not hide a breakdown: the wealth against the champion falls no lower
SCALE = 0.1  # nats: mean differences beyond it count as 1
LEAST_PROBABILITY = 1e-12
VETO_HALF_LIFE = 28.0  # days

Side = Literal["head", "frozen"]


class Decision(NamedTuple):
    kind: Literal["promotion", "rollback", "refused"]
    wealth: float  # that decided it, at least THRESHOLD
    veto: float  # decayed gain of the longest delay; a promotion is refused below 0


class Contest(msgspec.Struct, kw_only=True):
    """State of the contest, as it lies in a snapshot."""

    champion: Side = "head"
    wealth: list[list[float]] = msgspec.field(default_factory=lambda: [[1.0] * len(BETS) for _ in BETTING])
    bet_at: list[int] = msgspec.field(default_factory=lambda: [NEVER] * len(BETTING))
    veto: float = 0.0  # decayed sum of the longest delay's gains

    @property
    def evidence(self) -> float:
        """Wealth of the bet that the champion is worse than its rival."""
        return sum(sum(w) / len(BETS) for w in self.wealth) / len(BETTING)

    def weigh(self, gains: dict[int, float], epoch: int, elapsed: float) -> Decision | None:
        """Bet on this epoch's `gains`, by delay: mean loss of the frozen network minus that of the learnt head."""
        self.veto = 0.5 ** (elapsed / VETO_HALF_LIFE) * self.veto + _bounded(gains.get(DELAYS - 1, 0.0))
        for i, delay in enumerate(BETTING):
            gain = gains.get(delay)
            if gain is None or epoch - self.bet_at[i] < (WIDTHS[delay] - 0.1) * DAY:
                continue
            self.bet_at[i] = epoch
            against = -_bounded(gain) if self.champion == "head" else _bounded(gain)
            self.wealth[i] = [max(w * (1 + bet * against), FLOOR) for w, bet in zip(self.wealth[i], BETS, strict=True)]
        wealth = self.evidence
        if wealth < THRESHOLD:
            return None
        self.wealth = [[1.0] * len(BETS) for _ in BETTING]
        if self.champion == "head":
            self.champion = "frozen"
            return Decision("rollback", wealth, self.veto)
        if self.veto < 0:
            return Decision("refused", wealth, self.veto)
        self.champion = "head"
        return Decision("promotion", wealth, self.veto)


def _bounded(gain: float) -> float:
    return min(max(gain / SCALE, -1.0), 1.0)


def log_loss(units: Floats, mean: Floats, r: Floats) -> Floats:
    """[rows] -log P(Y = units), bounded."""
    chance = negative_binomial.pmf(units, np.maximum(mean, LEAST), r)
    return -np.log(np.maximum(chance, LEAST_PROBABILITY))


def compare(labels: Labels, mean: Floats) -> dict[int, float]:
    """Gain of the learnt head, whose bucket means [rows] are given, over the frozen network; by delay.

    Both are judged at the frozen network's r: the contest is about the means. A head's r has seen its own mistakes, and
    would lose a contest for being honest about them.
    """
    r = labels.frozen_dispersion
    gain = log_loss(labels.units, labels.frozen_mean, r) - log_loss(labels.units, mean, r)
    rows = ((delay, labels.delay == delay) for delay in range(DELAYS))
    return {delay: float(gain[mine].mean()) for delay, mine in rows if mine.any()}
