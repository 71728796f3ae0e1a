-- Names the session $1, ends earlier sessions of that name, which is one process's alone, and has
-- the server notice within half a minute when the machine at the other end is gone.
SELECT
    set_config('application_name', $1, false),
    set_config('tcp_keepalives_idle', '10', false),
    set_config('tcp_keepalives_interval', '5', false),
    set_config('tcp_keepalives_count', '3', false),
    set_config('idle_session_timeout', '0', false),
    (
        SELECT count(pg_terminate_backend(pid))
        FROM pg_stat_activity
        WHERE application_name = $1 AND pid <> pg_backend_pid()
    )
