"""The engine's settings: plain numbers, each time in seconds."""

from dataclasses import dataclass

from marginguard.domain.rules import Rules
from marginguard.domain.units import AccountId, GuardId


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """How often a guard looks, how long it may take, and how it tries again.

    A price older than `stale_after_s` and a read of positions older than `view_max_age_s`, which
    leaves a slow exchange its time to answer, are not acted on; nor is anything sent, a second
    attempt included, once either of them is older than `view_max_age_s`.
    Reading how an earlier action ended may take `settle_patience_s` of a run.
    An action that is not proved within `verify_within_s` goes on to the next.
    `spending_from_s` is the monotonic time before which nothing is spent.
    """

    interval_s: float = 30.0
    max_concurrent: int = 10
    timeout_s: float = 30.0
    retry_attempts: int = 3
    retry_delay_s: float = 5.0
    blind_after_s: float = 60.0
    stale_after_s: float = 5.0
    view_max_age_s: float = 10.0
    action_attempts: int = 3
    action_base_delay_s: float = 1.0
    action_max_delay_s: float = 10.0
    settle_delay_s: float = 2.0
    verify_within_s: float = 10.0
    settle_patience_s: float = 5.0
    spending_from_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """One guard as the engine runs it.

    A dry run does everything but send. With real-time monitoring a price that breaches runs the
    guard at once; without, the interval does the work. `plan` is its user's; where time is short
    the guards of a larger `priority` go first.
    """

    id: GuardId
    account_id: AccountId
    user_id: str
    rules: Rules
    dry_run: bool = False
    real_time_monitoring: bool = True
    plan: str = "lifetime"
    priority: int = 5
