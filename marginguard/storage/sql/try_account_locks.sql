-- Takes what is free of the advisory locks $1, for as long as the session lasts, and returns those.
SELECT wanted.key
FROM unnest($1::bigint[]) AS wanted (key)
WHERE pg_try_advisory_lock(wanted.key)
