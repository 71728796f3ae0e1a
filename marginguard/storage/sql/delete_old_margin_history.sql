-- Deletes at most $2 samples of the margin history from before $1.
DELETE FROM margin_history
WHERE (account_id, position_id, seen_at) IN (
    SELECT account_id, position_id, seen_at
    FROM margin_history
    WHERE seen_at < $1
    ORDER BY seen_at
    LIMIT $2
)
