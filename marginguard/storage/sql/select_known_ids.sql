-- Ids that somebody may have meant: of positions, and of the newest $1 executions and actions.
SELECT position_id AS id FROM positions
UNION
(SELECT id::text FROM executions ORDER BY started_at DESC LIMIT $1)
UNION
(SELECT position_id FROM actions ORDER BY intended_at DESC LIMIT $1)
