"""What somebody else does to positions is told once; what the guard does surprises nobody."""

import pytest

from marginguard.domain.errors import Unreachable
from marginguard.domain.model import ActionKind, PriceQuote, Side
from marginguard.domain.records import ActionStatus
from marginguard.domain.rules import ProtectionMode
from marginguard.engine.watch import Watch
from tests.unit.fakes import Rig, ambiguous, done, rejected
from tests.unit.strategies import a_cross_position, a_position

ADD = ActionKind.ADD_MARGIN
CLOSE = ActionKind.CLOSE_POSITION
REDUCE = ActionKind.REDUCE_POSITION
REFUSED = (False, rejected())
LOST = (False, ambiguous())
FOREIGN = ("position_opened", "position_changed", "position_gone")


def breached(action, position=None):
    """Return a rig with one position; the threshold is 80."""
    return Rig(position or a_position(), action=action)


def foreign(rig):
    return [n.kind.value for n in rig.ears.notices if n.kind.value in FOREIGN]


def read_by_another_guard(rig):
    """Report a read of this moment, as another guard on the account does."""
    price = rig.prices.price
    now_s = rig.clock.monotonic()
    rig.account.report(
        tuple(rig.exchange.positions.values()),
        PriceQuote(last=price, index=price, received_s=now_s),
        read_at_s=now_s,
    )


def a_watch(rig, books=None):
    """Return what looks after the actions of a guard that is no longer run."""
    watch = Watch(
        account=rig.account,
        executor=rig.executor,
        prices=rig.prices,
        settings=rig.settings,
        clock=rig.clock,
        stop=rig.stop,
    )
    for book in books or [rig.book]:
        watch.leave(book)
    return watch


async def quiet(rig):
    """Look a few times more, time passing."""
    for _ in range(3):
        rig.clock.advance(1)
        await rig.run()


async def test_what_runs_at_the_first_look_is_no_news():
    rig = breached(CLOSE)
    await quiet(rig)
    assert foreign(rig) == []


@pytest.mark.parametrize(
    ("befalls", "kind", "said"),
    [
        (
            lambda rig: rig.exchange.positions.update(new=a_position(id="new")),
            "position_opened",
            "long 1,000 USD at 100,000.0",
        ),
        (
            lambda rig: rig.exchange.top_up("trade-1", 7_000),
            "position_changed",
            "7,000 sats of margin were added",
        ),
        (
            lambda rig: rig.exchange.positions.update(
                {"trade-1": a_position(margin=93_000, cashed_in=7_000)}
            ),
            "position_changed",
            "7,000 sats of margin were taken out",
        ),
        (lambda rig: rig.exchange.end("trade-1"), "position_gone", "was closed by hand"),
    ],
)
async def test_a_change_by_somebody_else_is_told_once(befalls, kind, said):
    """Failures 11 and 12: noticed and reported."""
    rig = breached(CLOSE)
    await rig.run()
    befalls(rig)
    await quiet(rig)
    assert foreign(rig) == [kind]
    assert said in next(n.text for n in rig.ears.notices if n.kind.value == kind)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quantity": 600}, "it was long 1,000 USD and is long 600 USD"),
        ({"side": Side.SHORT}, "is short 1,000 USD"),
    ],
)
async def test_a_cut_of_the_cross_position_by_its_owner_is_told_once(changes, said):
    rig = breached(CLOSE, a_cross_position())
    await rig.run()
    rig.exchange.positions["cross"] = a_cross_position(**changes)
    await quiet(rig)
    assert foreign(rig) == ["position_changed"]
    assert said in rig.ears.notices[-1].text


async def test_funding_is_no_change_by_anybody():
    rig = breached(CLOSE)
    await rig.run()
    rig.exchange.positions["trade-1"] = a_position(margin=99_000, funding_paid=1_000)
    await quiet(rig)
    assert foreign(rig) == []


@pytest.mark.parametrize(
    ("action", "position"),
    [
        (ADD, a_position()),
        (ADD, a_cross_position()),
        (CLOSE, a_position()),
        (CLOSE, a_cross_position()),
        (REDUCE, a_position()),
        (REDUCE, a_cross_position()),
    ],
)
@pytest.mark.parametrize("answer", [done(), ambiguous()])
async def test_what_the_guard_does_is_told_as_its_own_and_not_as_a_surprise(
    action, position, answer
):
    rig = breached(action, position)
    await rig.run()
    rig.market(position, 85)
    rig.exchange.script.append((True, answer))
    rig.exchange.on_call = lambda: read_by_another_guard(rig)
    await rig.run()
    await quiet(rig)
    assert foreign(rig) == []
    assert rig.ears.kinds().count("action_done") == 1


async def test_an_action_that_shows_late_is_no_surprise_to_another_guard_that_reads_first():
    """The addition is known to the books, so that it is nobody else's."""
    rig = breached(ADD)
    await rig.run()
    rig.market(a_position(), 85)
    rig.exchange.script.append(LOST)
    await rig.run()
    rig.clock.advance(5)
    rig.exchange.top_up("trade-1", rig.exchange.calls[0][2])
    read_by_another_guard(rig)
    await quiet(rig)
    assert foreign(rig) == []
    assert rig.actions()[0].status is ActionStatus.DONE


async def test_a_trade_that_waits_to_be_opened_again_is_not_told_as_gone():
    rig = breached(REDUCE)
    await rig.run()
    rig.market(a_position(), 85)
    rig.exchange.script.extend([(True, done()), LOST])
    await rig.run()
    for seconds in (5, 10, 25, 5):
        rig.clock.advance(seconds)
        read_by_another_guard(rig)
        await rig.run()
    assert foreign(rig) == []
    assert rig.ears.kinds().count("action_failed") == 1


async def test_a_read_that_is_older_than_another_guards_takes_nothing_back():
    """While one guard still acts on a second position, another has read the account anew."""
    first, second = a_position(id="first", margin=90_000), a_position(id="second")
    rig = Rig(first, second, action=CLOSE)
    await rig.run()
    rig.market(second, 85)

    def another_reads():
        rig.clock.advance(1)
        if rig.exchange.calls[-1] == ("close", "second"):
            read_by_another_guard(rig)

    rig.exchange.on_call = another_reads
    await rig.run()
    await quiet(rig)
    assert foreign(rig) == []


async def test_a_change_just_before_our_action_is_told_though_we_acted_too():
    rig = breached(ADD)
    await rig.run()
    rig.market(a_position(), 85)
    await rig.run()
    rig.clock.advance(1)
    rig.exchange.top_up("trade-1", 5_000)
    await quiet(rig)
    assert foreign(rig) == ["position_changed"]
    assert "5,000 sats of margin were added" in rig.ears.notices[-1].text


async def test_what_an_action_that_did_not_happen_found_changed_is_told():
    """Failure 12: the addition was refused, so the margin is somebody else's."""
    rig = breached(ADD)
    await rig.run()
    rig.market(a_position(), 85)
    rig.exchange.script.append(REFUSED)
    rig.exchange.on_call = lambda: rig.exchange.top_up("trade-1", 70_000)
    await rig.run()
    await quiet(rig)
    assert foreign(rig) == ["position_changed"]


async def test_a_position_that_ended_under_an_action_is_told_once():
    """Failure 11: the action ends as gone; that is the news."""
    rig = breached(CLOSE)
    await rig.run()
    rig.market(a_position(), 85)
    rig.exchange.script.append(REFUSED)
    rig.exchange.on_call = lambda: rig.exchange.end("trade-1")
    await rig.run()
    await quiet(rig)
    assert foreign(rig) == ["position_gone"]


async def test_a_cross_position_that_ends_later_is_told_though_the_guard_closed_one_before():
    """The id of the cross position is always the same; its end must not pass for an old one."""
    rig = breached(CLOSE, a_cross_position())
    await rig.run()
    rig.market(a_cross_position(), 85)
    await rig.run()
    rig.exchange.positions["cross"] = a_cross_position(entry_price=rig.prices.price)
    rig.clock.advance(2)
    await rig.run()
    rig.clock.advance(2)
    rig.exchange.end("cross")
    await quiet(rig)
    assert foreign(rig).count("position_gone") == 1


async def test_an_outcome_that_cannot_be_told_is_not_told_as_somebody_elses_change():
    rig = breached(ADD)
    await rig.run()
    rig.market(a_position(), 85)
    rig.exchange.script.append(LOST)
    await rig.run()
    rig.exchange.top_up("trade-1", 7)
    rig.clock.advance(36)
    await rig.run()
    assert rig.actions()[0].frozen
    await quiet(rig)
    assert foreign(rig) == []
    rig.exchange.top_up("trade-1", 9)
    await quiet(rig)
    assert foreign(rig) == ["position_changed"]


async def test_how_an_action_ended_is_told_though_the_rest_of_the_look_fails():
    rig = breached(ADD)
    rig.market(a_position(), 85)
    rig.exchange.script.append(LOST)
    await rig.run()
    rig.exchange.top_up("trade-1", rig.exchange.calls[0][2])
    rig.prices.price = None
    await rig.run()
    assert rig.ears.kinds().count("action_done") == 1


async def test_what_a_guard_left_behind_is_told_by_the_watch():
    """The guard is no longer configured: its addition is settled and told all the same."""
    rig = breached(ADD)
    rig.market(a_position(), 85)
    rig.exchange.script.append(LOST)
    await rig.run()
    rig.start()
    watch = a_watch(rig)
    await watch._look()
    rig.clock.advance(1)
    rig.exchange.top_up("trade-1", rig.exchange.calls[0][2])
    await watch._look()
    rig.clock.advance(1)
    await watch._look()
    assert rig.ears.kinds().count("action_done") == 1
    assert foreign(rig) == []


async def test_an_action_left_behind_that_cannot_be_read_yet_is_not_told_as_foreign():
    rig = breached(ADD, a_cross_position())
    rig.market(a_cross_position(), 85)
    rig.exchange.script.append(LOST)
    await rig.run()
    left = rig.book
    rig.journal.records.clear()
    rig.start()  # without that guard
    watch = a_watch(rig, books=[left])
    deposits = rig.exchange.deposits

    async def unreadable(since):
        raise Unreachable("down")

    await watch._look()
    rig.exchange.top_up("cross", rig.exchange.calls[0][2])
    rig.exchange.deposits = unreadable
    await watch._look()
    rig.exchange.deposits = deposits
    await watch._look()
    await watch._look()
    assert foreign(rig) == []
    assert rig.ears.kinds().count("action_done") == 1


async def test_a_reduction_left_behind_says_that_the_rest_stays_closed():
    rig = breached(REDUCE)
    rig.market(a_position(), 85)
    await rig.crash(1, processed=True)
    watch = a_watch(rig)
    for _ in range(3):
        await watch._look()
        rig.clock.advance(36)
    assert "the rest stays closed" in rig.ears.notices[-1].text
    assert len(rig.exchange.calls) == 1


async def test_a_single_position_at_risk_is_spoken_of_though_the_portfolio_is_fine():
    """A winner elsewhere does not save an isolated loser."""
    loser, winner = a_position(), a_position(id="winner", entry_price=80_000.0)
    rig = Rig(loser, winner, action=CLOSE, mode=ProtectionMode.TOTAL)
    rig.market(loser, 92)
    await rig.run()
    assert rig.exchange.calls == []
    assert "threshold_reached" in rig.ears.kinds()
