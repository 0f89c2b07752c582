"""A whole federation out of one seed, from its first day until nothing fails any more and every run has ended."""

from __future__ import annotations

from typing import Any

from books import Books
from driving import Coordinator
from invariants import Violation, must, nothing_secret_at_last
from members import Aggregator, Member, Owner
from mischief import Mischief
from network import Network
from scenario import Planned, Scenario
from world import BEGIN, World

from smpc_fl.protocols.simulate import COORDINATOR

MOST_STEPS = 20_000
"""Things that happen in a federation of three hundred, on average."""


class Federation:
    """`verdict`: the violation that was found, or None."""

    def __init__(self, scenario: Scenario, remembered: int = 400) -> None:
        self.scenario = scenario
        self.world = World(scenario.seed, remembered)
        self.books = Books(self.world, scenario)
        self.network = Network(self.world, scenario.rates, BEGIN + scenario.calm, scenario.slowest)
        self.members: dict[str, Member] = {}
        for id_ in scenario.ids:
            kind = Coordinator if id_ == COORDINATOR else Owner if id_ in scenario.owners else Aggregator
            self.members[id_] = kind(self.world, self.network, self.books, scenario.parties[id_], scenario)
        self._join()
        self._backups: dict[str, Any] = {}
        self._plan()
        self.verdict: Violation | None = None

    @property
    def coordinator(self) -> Coordinator:
        member = self.members[COORDINATOR]
        assert isinstance(member, Coordinator)
        return member

    def _join(self) -> None:
        centre, scenario = self.members[COORDINATOR], self.scenario
        for aggregator in scenario.aggregators:
            self.network.join(centre, self.members[aggregator])
        for owner in scenario.owners:
            for id_ in (COORDINATOR, *scenario.aggregators):
                self.network.join(self.members[owner], self.members[id_])

    # --- what is planned ---

    def _plan(self) -> None:
        for member in self.members.values():
            self.world.after(0.0, member.start)
        for planned in self.scenario.planned:
            self.world.after(planned.at, lambda planned=planned: self._happens(planned))  # type: ignore[misc]
        if self.scenario.mischief:
            self.coordinator.mischief = Mischief(self.coordinator, self.scenario.seed)

    def _happens(self, planned: Planned) -> None:
        member = self.members[planned.who]
        match planned.what:
            case "cut":
                link = self.network.links.get(frozenset((planned.who, planned.other)))
                if link is not None:
                    self.network.cut(link, planned.seconds)
            case "kill":
                member.crash(power=False, seconds=planned.seconds)
            case "disk full":
                member.tell("! its disk is full")
                member.disk.full = True
                self.world.after(planned.seconds, lambda: setattr(member.disk, "full", False))
            case "backup":
                member.tell("! a backup is made")
                self._backups[planned.who] = member.disk.backup()
            case "restore" | "restore journal" | "restore without spool":
                member.restore(self._backups[planned.who], planned.what)
            case _:
                assert planned.what == "gone for good"
                member.die_for_good()

    # --- running ---

    def run(self) -> Violation | None:
        """Until all is over. Returns the violation that was found, or None."""
        try:
            self._run()
        except Violation as violation:
            self.verdict = violation
        except Exception as error:  # a machine fell over: that is a violation as well
            self.verdict = Violation("no_machine_fails", f"{type(error).__name__}: {error}")
            self.verdict.__cause__ = error
        if self.verdict is not None:
            self.world.tell(f"!! {self.verdict}")
        return self.verdict

    def _run(self) -> None:
        scenario, world = self.scenario, self.world
        attempts = sum(run.rounds * run.attempts for run in scenario.runs)
        latest = scenario.quiet + 90.0 + attempts * (scenario.seconds + 4 * scenario.patience)
        while not (self.coordinator.up and self.coordinator.over) and world.now < latest and world.step():
            must("every_run_ends", world.steps < MOST_STEPS, "there is no end to it")
        if not self.coordinator.dead and not scenario.mischief:
            must("every_run_ends", self.coordinator.up and self.coordinator.over, "a run did not end")
        world.run(max(world.now, scenario.quiet) + 5.0)
        self._a_day_later()

    def _a_day_later(self) -> None:
        self.world.run(self.world.now + 25 * 3600.0)
        for member in self.members.values():
            # A coordinator that died for good may have done so between a round's end and the erasures.
            if member.id != COORDINATOR or (member.up and all(run.over for run in self.coordinator.runs)):
                nothing_secret_at_last(self.books, member)
