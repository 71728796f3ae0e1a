-- The executions whose id, or that of an action of theirs, lies between $1 and $2; at most three.
SELECT id FROM executions WHERE id BETWEEN $1 AND $2
UNION
SELECT execution_id FROM actions WHERE id BETWEEN $1 AND $2 OR execution_id BETWEEN $1 AND $2
LIMIT 3
