"""What must hold whatever happens, held against ground truth: the exchange and the ledger."""

from collections import Counter

from marginguard.domain.breach import levels_of
from marginguard.domain.model import ActionKind
from marginguard.domain.notice import NoticeKind
from marginguard.domain.records import ActionStatus
from marginguard.domain.rules import ProtectionMode
from marginguard.domain.units import CROSS
from marginguard.engine.health import UNAUTHORIZED_PAUSE_S
from tests.simulation.budgets import overspending
from tests.simulation.reductions import Reductions, at_the_wallets_cost, misreported

LOUD = frozenset(
    {
        NoticeKind.ACTION_DONE,
        NoticeKind.ACTION_FAILED,
        NoticeKind.UNPROTECTED,
        NoticeKind.THRESHOLD_REACHED,
        NoticeKind.POSITION_GONE,
        NoticeKind.POSITION_LIQUIDATED,
    }
)
"""The notices that make a breach known, or say that something was done about it."""

NOT_GUARDING = frozenset({NoticeKind.GUARD_DEGRADED, NoticeKind.GUARD_DISARMED})
ARMED_STATES = NOT_GUARDING | {NoticeKind.GUARD_ARMED}

LOOK_S = 16.0
"""How long one look at the account and the market takes at most: three calls' time-outs."""

ACT_S = 15.0
"""How long an action takes in fair weather."""

SETTLED_AFTER_S = 35.0


class Invariants:
    """Looks on while a seed is played, and tells the world what does not hold."""

    def __init__(self, world):
        self._world = world
        self._breached_s = {}
        self._told_s = {}
        self._told_actions = set()
        self._armed = {}
        self._disturbed_s = 0.0
        self._paused = {}
        self._origins = {}
        self._reduced = Reductions()
        self.entry_margins = {}
        self.most_balance = Counter()

    # What the world tells.

    def started(self):
        """A process has just started, and knows nothing of what was told before."""
        self._armed.clear()
        states = self._world.disk.guard_states()
        # A pause that a full disk did not take ends with its process, which has said so.
        for guard_id, (since_s, until_s) in [*self._paused.items()]:
            pause = states[guard_id].pause if guard_id in states else None
            left_s = pause.left(self._world.wall_time()).total_seconds() if pause else 0.0
            ends_s = min(until_s, self._world.agenda.now_s + left_s)
            self._paused[guard_id] = (since_s, ends_s)
        # What an earlier process has not come to tell the daemon tells when it starts.
        for record in self._world.disk.actions():
            if record.status is ActionStatus.DONE and str(record.id) not in self._told_actions:
                self._reduced.note_record(record)

    def paused(self, guard_id, until_s):
        """An operator has paused a guard, which was answered just now."""
        since_s, ends_s = self._paused.get(guard_id, (0.0, 0.0))
        now_s = self._world.agenda.now_s
        self._paused[guard_id] = (since_s if now_s < ends_s else now_s, until_s)

    def pauses_end_any_time(self):
        """The wall clock jumped, by which pauses may be over."""
        self._paused.clear()

    def disturbed(self):
        """Something happened that may make good work take longer."""
        self._disturbed_s = self._world.agenda.now_s

    def heard(self, notice):
        now_s = self._world.agenda.now_s
        if notice.kind in ARMED_STATES:
            self._armed[notice.guard_id] = notice.kind
        if notice.kind in LOUD:
            self._reduced.note(notice)
            self._told_actions.add(notice.data.get("action_id"))
            self._told_s[(notice.guard_id, notice.position_id)] = now_s
            self._told_s[(notice.account_id, notice.position_id)] = now_s

    def origin_of(self, position_id):
        """Return the id that a trade had before any reduction reopened it."""
        return self._origins.get(position_id, position_id)

    def intent_of(self, wish, account_id):
        """Return the durable intent that a request answers, or None: then that is a violation."""
        world = self._world
        open_ones = (ActionStatus.INTENDED, ActionStatus.SENT)
        written = [
            record
            for record in world.disk.actions()
            if record.account_id == account_id and world.disk.known(record).status in open_ones
            if wish.answers(record)
        ]
        if written:
            return written[-1]
        # With a full disk closing and reducing go on, spending does not.
        unwritten = [
            record
            for record in world.disk.refused.values()
            if record.account_id == account_id and wish.answers(record)
        ]
        if unwritten and not unwritten[-1].kind.spends:
            world.counts["sent though the disk was full"] += 1
            return unwritten[-1]
        world.violate(f"sent without a durable intent: {account_id} {wish}")
        return None

    def signed(self, request):
        """A request goes out; nothing else of its kind may be on its way."""
        record = request.record
        if record is None:
            return
        if record.dry_run:
            self._world.violate(f"a dry run sent {request.wish}")
        if not self._plan(record.guard_id).guard.rules.auto_execution:
            self._world.violate(f"sent {request.wish} though auto_execution is off")
        self._signed_in_a_pause(request, record)
        if record.repeatable:
            return
        for earlier in self._world.ledger.requests:
            if self._is_forgotten(earlier):
                continue
            if self._is_doubled_by(earlier, request):
                self._world.violate(
                    f"sent {request.wish} while an earlier {earlier.wish} may still be carried out"
                )

    def _rests(self, guard_id):
        since_s, until_s = self._paused.get(guard_id, (0.0, 0.0))
        return since_s, self._world.agenda.now_s < until_s

    def _signed_in_a_pause(self, request, record):
        """While a guard is paused only what was under way before goes on."""
        since_s, rests = self._rests(record.guard_id)
        intended_s, _ = self._world.disk.intents.get(record.id, (0.0, None))
        if rests and intended_s > since_s:
            self._world.violate(f"{record.guard_id} is paused and sent {request.wish}")

    def _is_forgotten(self, earlier):
        """Whether it cut the cross position on a full disk, by a process that died since.

        With a full disk reducing goes on (safety rule 3), so that this one order may be sent
        again by a process that cannot know of it. Nothing that spends or opens is.
        """
        record = earlier.record
        if record is None or record.kind is not ActionKind.REDUCE_POSITION or record.reopening:
            return False
        disk = self._world.disk
        forgotten = record.id in disk.refused and record.id not in disk.newest
        self._world.counts["cuts forgotten on a full disk"] += forgotten
        return forgotten

    def applied(self, request):
        """A request was carried out: once, and within the budget."""
        world, record = self._world, request.record
        if record is None:
            return
        same = [
            r
            for r in world.ledger.of(record.id)
            if r.applied_s is not None and r.wish.call == request.wish.call
        ]
        if len(same) > 1 and not record.repeatable:
            world.violate(f"carried out {len(same)} times: {request.wish} of action {record.id}")
        if request.wish.call == "open_trade":
            self._origins[request.exchange_id] = self.origin_of(record.position_id)
            rules = self._plan(record.guard_id).guard.rules
            why = at_the_wallets_cost(world, request, rules.reopen_slippage)
            if why is not None:
                world.violate(f"reopened {record.position_id} {why}")
        if request.spends:
            self._note_balances()
            why = overspending(world, self, request, self._plan(record.guard_id))
            if why is not None:
                world.violate(f"overspent by {request.wish}: {why}")

    def look(self):
        """Hold every breach and every guard against its deadline."""
        self._note_balances()
        world = self._world
        for plan in world.guards:
            self._look_at_breaches(plan)
        process = world.process
        if process is None or not process.alive or process.stop.is_set() or process.frozen:
            return
        for plan in world.guards_now():
            self._look_at_sight(plan, process)

    def at_the_end(self):
        """Hold the records against what the exchange did, after a quiet time."""
        world = self._world
        for record in world.disk.actions():
            world.counts[f"{record.kind.value} {record.status.value}"] += 1
            why = self._disagreement(record)
            if why is not None:
                world.violate(f"{record.kind.value} {record.id} is {record.status.value}, {why}")
        known = {record.id for record in world.disk.actions()}
        for request in world.ledger.applied():
            lost = request.record is not None and request.record.id not in known
            # What a full disk kept from being written down is lost with the process alone.
            if lost and (request.spends or request.process == world.number):
                world.violate(f"no record of {request.wish}, which was carried out")

    # How it is told.

    def _is_doubled_by(self, earlier, request):
        first, second = earlier.record, request.record
        if first is None or first.repeatable or earlier.wish.call != request.wish.call:
            return False
        if (first.account_id, first.position_id) != (second.account_id, second.position_id):
            return False
        if not earlier.may_still_come(self._world.agenda.now_s):
            return False
        newest = self._world.disk.newest.get(first.id)
        if newest is None:
            return True
        return self._world.disk.known(newest[1]).status is not ActionStatus.DONE

    def _plan(self, guard_id):
        return next(plan for plan in self._world.guards if plan.guard.id == guard_id)

    def _note_balances(self):
        for account in self._world.scenario.accounts:
            held = self._world.account(account.id).balance
            self.most_balance[account.id] = max(self.most_balance[account.id], held)
            for position in self._world.positions(account.id):
                key = (account.id, self.origin_of(position.id))
                largest = max(self.entry_margins.get(key, 0), position.entry_margin)
                self.entry_margins[key] = largest

    def _look_at_breaches(self, plan):
        world, guard = self._world, plan.guard
        rules = guard.rules
        covered = [
            position
            for position in world.positions(guard.account_id)
            if rules.selects(self.origin_of(position.id))
        ]
        levels = levels_of(covered, world.quote(), rules)
        for position in covered:
            key, level = (guard.id, position.id), levels[position.id]
            if level < rules.ladder.lowest:
                self._breached_s.pop(key, None)
                continue
            if key not in self._breached_s:
                world.counts["breaches"] += 1
                self._breached_s[key] = world.agenda.now_s
            if self._reduced.holds(key, level):
                self._breached_s[key] = world.agenda.now_s
            self._look_at_deadline(plan, key, level)

    def _look_at_deadline(self, plan, key, level):
        world, guard = self._world, plan.guard
        process, now_s = world.process, world.agenda.now_s
        if process is None or not process.alive or process.stop.is_set() or process.frozen:
            return
        _, rests = self._rests(guard.id)
        silent = self._armed.get(guard.id) in NOT_GUARDING and not rests
        if plan not in world.guards_now() or silent:
            return
        settings = world.scenario.settings
        told_s = self._told_s.get(key, 0.0)
        if guard.rules.mode is not ProtectionMode.UNITARIO:
            # What is done about one position may be what the portfolio's breach asks for.
            told_s = max(
                (at for (who, _), at in self._told_s.items() if who == guard.id), default=0
            )
        since_s = max(self._breached_s[key], process.started_s, told_s)
        calm_s = max(since_s, world.faults.last_s, self._disturbed_s)
        pace_s = max(guard.rules.cooldown.total_seconds(), SETTLED_AFTER_S)
        calm_bound_s = pace_s + settings.interval_s + UNAUTHORIZED_PAUSE_S + ACT_S
        bound_s = calm_bound_s + self._blind_bound_s() + settings.timeout_s
        world.counts["looks at a breach in a pause"] += rests
        if rests:
            bound_s = float("inf")  # where it is blind it says so under its pause
        if now_s - since_s > bound_s or now_s - calm_s > calm_bound_s:
            world.violate(
                f"{guard.id}: {key[1]} is at {level:.1f} %, threshold"
                f" {guard.rules.ladder.lowest:g} %, since {now_s - self._breached_s[key]:.0f} s,"
                f" and nobody has heard of it for {now_s - since_s:.0f} s"
            )

    def _blind_bound_s(self):
        """Return after how many seconds without sight a guard must have said so."""
        settings = self._world.scenario.settings
        noticed_s = settings.interval_s + LOOK_S
        pause_s = min(settings.blind_after_s / 2, settings.interval_s)
        return noticed_s + settings.blind_after_s + max(pause_s, settings.retry_delay_s) + LOOK_S

    def _look_at_sight(self, plan, process):
        seen_s = min(
            process.price_seen_s,
            process.positions_seen_s.get(plan.guard.account_id, process.started_s),
        )
        blind_s = self._world.agenda.now_s - max(seen_s, process.started_s)
        if blind_s <= self._blind_bound_s():
            return
        if self._armed.get(plan.guard.id) not in NOT_GUARDING:
            self._world.violate(f"{plan.guard.id} is blind for {blind_s:.0f} s and does not say so")

    def _disagreement(self, record):
        """Return how a record disagrees with the exchange, or None."""
        requests = self._world.ledger.of(record.id)
        applied = [request for request in requests if request.applied_s is not None]
        if record.frozen:
            self._world.counts["frozen"] += 1
            return None
        if not record.status.settled:
            return "which is no end"
        if record.status is ActionStatus.REJECTED and applied:
            return f"but the exchange carried it out: {applied[0].wish}"
        if record.status is not ActionStatus.DONE:
            return None
        if record.reopening is not None:
            return misreported(self._world, record, applied)
        if applied or self._cannot_be_told(record):
            return None
        return "but the exchange did not carry it out"

    def _cannot_be_told(self, record):
        """Whether what others did looks the same as the action would have."""
        world = self._world
        start_s, _ = world.disk.intents[record.id]
        if record.closes:
            # A position that ended while it was being closed is closed, whoever did it.
            world.counts["closed by others meanwhile"] += 1
            ids = {position.id for position in world.positions(record.account_id)}
            end_s = float("inf")
            reopened = world.ledger.touched(record.account_id, CROSS, start_s, end_s, "user opens")
            return record.position_id not in ids or (record.position_id == CROSS and reopened)
        if record.kind.spends:
            return world.ledger.touched(
                record.account_id,
                record.position_id,
                start_s - LOOK_S,
                world.agenda.now_s,
                "user tops up",
            )
        # A stop-loss is told by its value, whichever request has set it.
        return any(
            request.wish.call == "set_stop_loss"
            and (request.wish.position_id, request.wish.price)
            == (record.position_id, record.stop_loss)
            for request in world.ledger.applied()
        )
