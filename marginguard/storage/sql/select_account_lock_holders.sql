-- The sessions that hold the advisory locks $1. When a session began is shown to its own role alone.
SELECT
    held.key,
    pg_stat_activity.application_name,
    pg_stat_activity.backend_start
FROM (
    -- A lock's 64-bit number is shown as its two halves.
    SELECT (pg_locks.classid::bigint << 32) | pg_locks.objid::bigint AS key, pg_locks.pid
    FROM pg_locks
    INNER JOIN pg_database ON pg_locks.database = pg_database.oid
    WHERE pg_locks.locktype = 'advisory'
    AND pg_locks.objsubid = 1
    AND pg_locks.granted
    AND pg_database.datname = current_database()
) AS held
LEFT JOIN pg_stat_activity USING (pid)
WHERE held.key = ANY($1::bigint[])
