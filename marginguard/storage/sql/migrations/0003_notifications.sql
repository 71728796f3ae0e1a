-- The outbox: a row for each notice, user and channel. No foreign keys: a notice may be written
-- before its execution is. The address is the configuration's and is not kept here.
CREATE TABLE notifications (
    id uuid NOT NULL,
    user_id text NOT NULL,
    channel text NOT NULL,
    -- Open-ended: every version may bring new events, kinds and actions.
    event text NOT NULL,
    kind text NOT NULL,
    severity text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
    guard_id text,
    account_id text,
    position_id text,
    execution_id uuid,
    action_id uuid,
    notice jsonb NOT NULL,
    subject text NOT NULL,
    text text NOT NULL,
    html text,
    payload jsonb,
    late_note text NOT NULL,
    status text NOT NULL CHECK (status IN ('pending', 'delivered', 'failed')),
    attempts integer NOT NULL CHECK (attempts >= 0),
    created_at timestamptz NOT NULL,
    next_attempt_at timestamptz NOT NULL,
    attempted_at timestamptz,
    settled_at timestamptz,
    last_error text,
    action text,
    advice text,
    revision integer NOT NULL,
    -- By the server's clock: when somebody asked for it to be sent once more.
    resent_at timestamptz,
    PRIMARY KEY (id, user_id, channel),
    CHECK ((status = 'pending') = (settled_at IS NULL))
);

CREATE INDEX notifications_pending ON notifications (next_attempt_at) WHERE status = 'pending';
CREATE INDEX notifications_newest_settled ON notifications (channel, settled_at DESC)
WHERE status <> 'pending';
CREATE INDEX notifications_by_time ON notifications (created_at);
CREATE INDEX notifications_of_action ON notifications (action_id) WHERE action_id IS NOT NULL;
