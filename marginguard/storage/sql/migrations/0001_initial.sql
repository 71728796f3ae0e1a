-- Money is whole sats in bigint. Prices and percentages are double precision: the program holds
-- them as floats, the exchange's steps of half a dollar are exact in a float, and computed prices
-- come back to the last bit, so a record read here is the record that was written.

CREATE TABLE executions (
    id uuid PRIMARY KEY,
    guard_id text NOT NULL,
    account_id text NOT NULL,
    user_id text NOT NULL,
    status text NOT NULL CHECK (status IN ('completed', 'partial', 'failed', 'skipped')),
    source text NOT NULL CHECK (source IN ('schedule', 'price', 'retry', 'run-now', 'recover')),
    version text NOT NULL,
    dry_run boolean NOT NULL,
    positions_total integer NOT NULL,
    positions_requiring_action integer NOT NULL,
    positions_succeeded integer NOT NULL,
    positions_failed integer NOT NULL,
    price double precision,
    -- Open-ended: every version may bring new codes.
    error_code text,
    error_type text CHECK (
        error_type IN (
            'CONFIGURATION_ERROR', 'ACCOUNT_ERROR', 'API_ERROR', 'NETWORK_ERROR',
            'EXECUTION_ERROR', 'NOTIFICATION_ERROR'
        )
    ),
    error text,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    duration_s double precision NOT NULL,
    results jsonb NOT NULL,
    phases jsonb NOT NULL
);

CREATE INDEX executions_newest_of_guard ON executions (guard_id, started_at DESC);
CREATE INDEX executions_by_time ON executions (started_at);

-- No foreign key to executions: an action is written before it is sent, its execution when it
-- has ended.
CREATE TABLE actions (
    id uuid PRIMARY KEY,
    execution_id uuid NOT NULL,
    guard_id text NOT NULL,
    account_id text NOT NULL,
    position_id text NOT NULL,
    episode_id text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('close_position', 'add_margin')),
    amount bigint NOT NULL CHECK (amount >= 0),
    status text NOT NULL CHECK (
        status IN ('intended', 'sent', 'done', 'rejected', 'unknown', 'gone')
    ),
    dry_run boolean NOT NULL,
    reason text NOT NULL,
    level double precision NOT NULL,
    threshold double precision NOT NULL,
    before jsonb NOT NULL,
    intended_at timestamptz NOT NULL,
    after jsonb,
    sent_at timestamptz,
    settled_at timestamptz,
    attempts integer NOT NULL,
    outcome text,
    exchange_id text,
    client_id text,
    error text,
    proof text,
    frozen boolean NOT NULL
);

CREATE INDEX actions_of_execution ON actions (execution_id);
CREATE INDEX actions_of_position ON actions (account_id, position_id, intended_at DESC);
CREATE INDEX actions_by_time ON actions (intended_at);
CREATE INDEX actions_unsettled ON actions (intended_at)
WHERE status IN ('intended', 'sent', 'unknown');

CREATE TABLE guard_state (
    guard_id text PRIMARY KEY,
    account_id text NOT NULL,
    armed text NOT NULL CHECK (armed IN ('armed', 'degraded', 'disarmed')),
    reason text NOT NULL,
    since timestamptz NOT NULL,
    memory jsonb NOT NULL,
    updated_at timestamptz NOT NULL
);

-- Checks are the looks at which there was nothing to do; executions are counted as they are
-- inserted, by how they ended.
CREATE TABLE guard_stats (
    guard_id text PRIMARY KEY,
    account_id text NOT NULL,
    checks bigint NOT NULL DEFAULT 0,
    last_checked_at timestamptz,
    executions bigint NOT NULL DEFAULT 0,
    completed bigint NOT NULL DEFAULT 0,
    partial bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    skipped bigint NOT NULL DEFAULT 0,
    total_duration_s double precision NOT NULL DEFAULT 0,
    last_execution_at timestamptz
);

-- The newest view of every running position; guard_id is null for one that no guard covers.
CREATE TABLE positions (
    account_id text NOT NULL,
    position_id text NOT NULL,
    guard_id text,
    mode text NOT NULL CHECK (mode IN ('isolated', 'cross')),
    side text NOT NULL CHECK (side IN ('long', 'short')),
    quantity bigint NOT NULL,
    margin bigint NOT NULL,
    entry_price double precision NOT NULL,
    leverage double precision NOT NULL,
    price double precision NOT NULL,
    level double precision NOT NULL,
    risk text NOT NULL CHECK (risk IN ('safe', 'low', 'medium', 'high', 'critical')),
    trigger_price double precision,
    liquidation_price double precision,
    liquidation_distance double precision,
    pl bigint NOT NULL,
    seen_at timestamptz NOT NULL,
    PRIMARY KEY (account_id, position_id)
);

CREATE TABLE margin_history (
    account_id text NOT NULL,
    position_id text NOT NULL,
    seen_at timestamptz NOT NULL,
    guard_id text,
    price double precision NOT NULL,
    margin bigint NOT NULL,
    pl bigint NOT NULL,
    level double precision NOT NULL,
    risk text NOT NULL CHECK (risk IN ('safe', 'low', 'medium', 'high', 'critical')),
    PRIMARY KEY (account_id, position_id, seen_at)
);

CREATE INDEX margin_history_by_time ON margin_history (seen_at);
