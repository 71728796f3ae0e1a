-- When the daemon last looked, as far as the record shows.
SELECT greatest(
    (SELECT max(greatest(last_checked_at, last_execution_at)) FROM guard_stats),
    (SELECT max(seen_at) FROM positions)
)
