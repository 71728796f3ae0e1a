-- $1 the accounts looked at, $2 their positions, $3 samples for the history, $4 quiet checks.
WITH seen AS (
    SELECT * FROM jsonb_populate_recordset(NULL::positions, $2::jsonb)
),
gone AS (
    DELETE FROM positions
    WHERE account_id = ANY ($1::text[])
        AND NOT EXISTS (
            SELECT FROM seen
            WHERE seen.account_id = positions.account_id
                AND seen.position_id = positions.position_id
        )
),
sampled AS (
    INSERT INTO margin_history
    SELECT * FROM jsonb_populate_recordset(NULL::margin_history, $3::jsonb)
    ON CONFLICT DO NOTHING
),
counted AS (
    INSERT INTO guard_stats AS stats (guard_id, account_id, checks, last_checked_at)
    SELECT guard_id, account_id, checks, last_checked_at
    FROM jsonb_populate_recordset(NULL::guard_stats, $4::jsonb)
    ON CONFLICT (guard_id) DO UPDATE SET
        checks = stats.checks + excluded.checks,
        last_checked_at = greatest(stats.last_checked_at, excluded.last_checked_at)
)
INSERT INTO positions
SELECT * FROM seen
ON CONFLICT (account_id, position_id) DO UPDATE SET
    guard_id = excluded.guard_id,
    mode = excluded.mode,
    side = excluded.side,
    quantity = excluded.quantity,
    entry_price = excluded.entry_price,
    leverage = excluded.leverage,
    margin = excluded.margin,
    pl = excluded.pl,
    price = excluded.price,
    level = excluded.level,
    risk = excluded.risk,
    trigger_price = excluded.trigger_price,
    liquidation_price = excluded.liquidation_price,
    liquidation_distance = excluded.liquidation_distance,
    seen_at = excluded.seen_at
