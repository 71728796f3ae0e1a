-- How many executions there are from $1 on, by status; of guard $2 where it is not null.
SELECT status, count(*) AS count
FROM executions
WHERE started_at >= $1 AND ($2::text IS NULL OR guard_id = $2)
GROUP BY status
