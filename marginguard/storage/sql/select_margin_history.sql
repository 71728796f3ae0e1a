-- The levels of the positions $2 of account $1 from $3 on: the newest $4, oldest first.
SELECT *
FROM (
    SELECT position_id, guard_id, seen_at, price, margin, pl, level
    FROM margin_history
    WHERE account_id = $1 AND position_id = ANY($2::text[]) AND seen_at >= $3
    ORDER BY seen_at DESC
    LIMIT $4
) AS newest
ORDER BY seen_at
