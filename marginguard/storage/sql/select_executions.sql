-- At most $4 executions from $1 on, newest first, as a JSON array; of guard $2 and with status $3
-- where these are not null.
SELECT coalesce(jsonb_agg(to_jsonb(newest) ORDER BY started_at DESC, id DESC), '[]')::text
FROM (
    SELECT *
    FROM executions
    WHERE started_at >= $1
    AND ($2::text IS NULL OR guard_id = $2)
    AND ($3::text IS NULL OR status = $3)
    ORDER BY started_at DESC, id DESC
    LIMIT $4
) AS newest
