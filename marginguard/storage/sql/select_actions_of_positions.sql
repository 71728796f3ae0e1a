-- The newest $3 actions of account $1 on the positions $2 as a JSON array, oldest first.
SELECT coalesce(jsonb_agg(to_jsonb(newest) ORDER BY intended_at, id), '[]')::text
FROM (
    SELECT *
    FROM actions
    WHERE account_id = $1 AND position_id = ANY($2::text[])
    ORDER BY intended_at DESC, id DESC
    LIMIT $3
) AS newest
