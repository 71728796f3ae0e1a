-- Until when a guard only alerts, and who wanted it.
ALTER TABLE guard_state ADD COLUMN pause jsonb;

-- What operators asked of the running daemon, refused or not.
CREATE TABLE commands (
    id uuid PRIMARY KEY,
    at timestamptz NOT NULL,
    by text NOT NULL,
    command text NOT NULL,
    guard_id text,
    accepted boolean NOT NULL,
    answer text NOT NULL
);

CREATE INDEX commands_by_time ON commands (at);
