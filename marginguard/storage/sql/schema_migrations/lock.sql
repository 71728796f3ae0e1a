-- Held until the transaction ends: one process migrates, the others wait and find it done.
-- The number is arbitrary and must never change.
SELECT pg_advisory_xact_lock(7236830022)
