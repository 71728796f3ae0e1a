-- The newest $1 actions that answered a breach and the newest $2 that set a stop-loss, together as
-- a JSON array, newest first.
SELECT coalesce(jsonb_agg(to_jsonb(newest) ORDER BY intended_at DESC, id DESC), '[]')::text
FROM (
    (
        SELECT * FROM actions
        WHERE kind <> 'set_stop_loss'
        ORDER BY intended_at DESC, id DESC
        LIMIT $1
    )
    UNION ALL
    (
        SELECT * FROM actions
        WHERE kind = 'set_stop_loss'
        ORDER BY intended_at DESC, id DESC
        LIMIT $2
    )
) AS newest
