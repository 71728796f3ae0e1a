-- $1: the ids of the accounts that were looked at, as a JSON array; $2: all their positions;
-- $3: samples for the history; $4: checks of guards. One statement is one round trip and one
-- transaction. A position that is not in $2 is gone; an older view never replaces a newer one.
WITH seen AS (
    SELECT * FROM jsonb_populate_recordset(NULL::positions, $2::text::jsonb)
),

gone AS (
    DELETE FROM positions
    WHERE account_id IN (SELECT jsonb_array_elements_text($1::text::jsonb))
    AND (account_id, position_id) NOT IN (SELECT account_id, position_id FROM seen)
),

kept AS (
    INSERT INTO positions (
        account_id, position_id, guard_id, mode, side, quantity, margin, entry_price, leverage,
        price, level, risk, trigger_price, liquidation_price, liquidation_distance, pl, stop_loss,
        take_profit, backstop, original_margin, seen_at
    )
    SELECT
        account_id, position_id, guard_id, mode, side, quantity, margin, entry_price, leverage,
        price, level, risk, trigger_price, liquidation_price, liquidation_distance, pl, stop_loss,
        take_profit, backstop, original_margin, seen_at
    FROM seen
    ON CONFLICT (account_id, position_id) DO UPDATE SET
        guard_id = excluded.guard_id,
        mode = excluded.mode,
        side = excluded.side,
        quantity = excluded.quantity,
        margin = excluded.margin,
        entry_price = excluded.entry_price,
        leverage = excluded.leverage,
        price = excluded.price,
        level = excluded.level,
        risk = excluded.risk,
        trigger_price = excluded.trigger_price,
        liquidation_price = excluded.liquidation_price,
        liquidation_distance = excluded.liquidation_distance,
        pl = excluded.pl,
        stop_loss = excluded.stop_loss,
        take_profit = excluded.take_profit,
        backstop = excluded.backstop,
        original_margin = excluded.original_margin,
        seen_at = excluded.seen_at
    WHERE positions.seen_at <= excluded.seen_at
),

sampled AS (
    INSERT INTO margin_history (
        account_id, position_id, seen_at, guard_id, price, margin, pl, level, risk
    )
    SELECT
        account_id, position_id, seen_at, guard_id, price, margin, pl, level, risk
    FROM jsonb_populate_recordset(NULL::margin_history, $3::text::jsonb)
    ON CONFLICT (account_id, position_id, seen_at) DO NOTHING
)

INSERT INTO guard_stats AS stats (guard_id, account_id, checks, last_checked_at)
SELECT guard_id, account_id, checks, last_checked_at
FROM jsonb_populate_recordset(NULL::guard_stats, $4::text::jsonb)
ON CONFLICT (guard_id) DO UPDATE SET
    account_id = excluded.account_id,
    checks = stats.checks + excluded.checks,
    last_checked_at = greatest(stats.last_checked_at, excluded.last_checked_at)
