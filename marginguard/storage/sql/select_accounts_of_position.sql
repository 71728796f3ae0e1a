-- The accounts that have, or had, a position $1.
WITH accounts AS (
    SELECT account_id FROM guard_state
    UNION
    SELECT account_id FROM positions
    UNION
    SELECT account_id FROM guard_stats
)

SELECT account_id
FROM accounts
WHERE
    EXISTS (
        SELECT FROM positions
        WHERE positions.account_id = accounts.account_id AND positions.position_id = $1
    )
    OR EXISTS (
        SELECT FROM margin_history
        WHERE margin_history.account_id = accounts.account_id AND margin_history.position_id = $1
    )
    OR EXISTS (
        SELECT FROM actions
        WHERE actions.account_id = accounts.account_id
        AND (actions.position_id = $1 OR actions.successor = $1)
    )
ORDER BY account_id
