"""The progress of a run: what it logs now and then, and when too many failures stop it."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from hilbert_ray.document import EXAMPLES, Seconds, reason_of, reasons_of
from hilbert_ray.store import Quarantined
from hilbert_ray.terminal import duration
from hilbert_ray.transcript import Flaw, FlawCounts
from hilbert_ray.units.errors import TooManyQuarantinedError, UnitsError
from hilbert_ray.units.plan import Unit
from hilbert_ray.units.worker import UnitResult

logger = logging.getLogger(__name__)
MIN_FAILURES = 20
"""Failures before a run is stopped for too many: a few say little about thousands of documents."""
_PROGRESS_S = 10.0
"""Seconds between lines of progress in the log."""
_KNOWN_SHARE = 0.05
"""Of the work done since the first result, from which on the log says how long the rest will take."""


class RunProgress:
    """Counts results, logs progress now and then, and stops the run when too many documents fail."""

    def __init__(self, units: Sequence[Unit], max_quarantined: float, title: str) -> None:
        self.planned = sum(len(unit.keys) for unit in units)
        self.results: list[UnitResult] = []
        self._max_quarantined = max_quarantined
        self._seconds_planned = sum(unit.seconds for unit in units)
        self._seconds_done = 0.0
        self._documents_done = 0
        self._failures: list[Quarantined] = []
        self._reasons: Counter[tuple[str, str, str]] = Counter()
        self._flaws = FlawCounts()
        self._hours_done = 0.0
        self._hours_planned = sum(unit.seconds for unit in units if unit.content != "text") / 3600
        self._started = self._last_logged = time.monotonic()
        # When the first result came, and the seconds done by then: workers start and load models before.
        self._first: tuple[float, Seconds] | None = None
        logger.info(
            "%s (%.2f h of audio) in %d units",
            title.format(self.planned),
            self._hours_planned,
            len(units),
        )

    def add(self, result: UnitResult) -> None:
        """Add the result of one unit.

        Raises:
            UnitsError: when the store could not be written or a model did not load.
            TooManyQuarantinedError: when too many of the planned documents have failed.
        """
        if result.error is not None:
            raise UnitsError(result.error)
        self.results.append(result)
        self._documents_done += result.stored + len(result.quarantined)
        self._hours_done += result.amount / 3600 if result.content != "text" else 0.0
        self._seconds_done += result.seconds
        for failure in result.quarantined:
            self._log_failure(failure)
        self._failures += result.quarantined
        for doc_id, flaws in groupby(result.flaws, key=lambda flaw: flaw[0]):
            self._flaws.add(doc_id, [Flaw(kind, count) for _, kind, count in flaws])
        self._check_failures()
        now = time.monotonic()
        self._first = self._first or (now, self._seconds_done)
        if now - self._last_logged >= _PROGRESS_S or self._documents_done == self.planned:
            self._last_logged = now
            logger.info(self._line(now))

    def log_flaws(self) -> None:
        """Log what was odd or repaired in transcripts, once for each kind."""
        for line in self._flaws.lines():
            logger.warning("%s", line)

    def _log_failure(self, failure: Quarantined) -> None:
        """Log the first failures of each reason: thousands may have the same one."""
        reason = reason_of(failure)
        self._reasons[reason] += 1
        if self._reasons[reason] <= EXAMPLES:
            is_last = self._reasons[reason] == EXAMPLES
            more = "; others for this reason are counted in the summary" if is_last else ""
            logger.warning("quarantined %s (%s): %s%s", failure.doc_id, failure.error, failure.message, more)

    def _check_failures(self) -> None:
        failed = len(self._failures)
        if failed >= MIN_FAILURES and failed > self._max_quarantined * self.planned:
            reasons = [
                f"{reason.count} {reason.error} ({reason.examples[0].message})"
                for reason in reasons_of(self._failures)[:EXAMPLES]
            ]
            raise TooManyQuarantinedError(
                f"{failed} of {self.planned} planned documents failed, more than embed.max_quarantined = "
                f"{self._max_quarantined} allows; most often: {'; '.join(reasons)}. What is committed "
                "stays: fix the cause, or raise embed.max_quarantined, and rerun to resume"
            )

    def _line(self, now: Seconds) -> str:
        """Return one line of progress at this time."""
        failed = f", {len(self._failures)} quarantined" if self._failures else ""
        audio = ""
        if self._hours_planned:
            # In hours of audio per hour: what a reader compares with the length of their recordings.
            rate = 3600 * self._hours_done / (now - self._started)
            at = f", {rate:.3g} times as fast as it plays" if rate else ""
            audio = f", {self._hours_done:.2f} of {self._hours_planned:.2f} h of audio{at}"
        return f"{self._documents_done} of {self.planned} documents{audio}{failed}{self._time_left(now)}"

    def _time_left(self, now: Seconds) -> str:
        """Return how long the rest will take; nothing while too little has been done to know."""
        assert self._first is not None
        first, done_before = self._first
        # By the weights of the plan: documents differ too much in length to count them.
        done, left = self._seconds_done - done_before, self._seconds_planned - self._seconds_done
        if left <= 0 or done < _KNOWN_SHARE * self._seconds_planned:
            return ""
        return f", {duration((now - first) / done * left)} left"
