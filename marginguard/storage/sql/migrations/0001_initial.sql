-- Money is whole sats in bigint. Prices are double precision: the exchange quotes half dollars,
-- which it holds exactly, and computed prices (trigger, liquidation) are floats to begin with.
-- Column names are the field names of the records that the daemon writes.

-- One finished run of a guard that had something to do, or failed.
CREATE TABLE executions (
    id                         uuid PRIMARY KEY,
    guard_id                   text NOT NULL,
    account_id                 text NOT NULL,
    user_id                    text NOT NULL,
    status                     text NOT NULL
        CHECK (status IN ('completed', 'partial', 'failed', 'skipped')),
    source                     text NOT NULL
        CHECK (source IN ('schedule', 'price', 'retry', 'run-now', 'recover')),
    version                    text NOT NULL,
    dry_run                    boolean NOT NULL,
    positions_total            integer NOT NULL,
    positions_requiring_action integer NOT NULL,
    positions_succeeded        integer NOT NULL,
    positions_failed           integer NOT NULL,
    price                      double precision,
    error_code                 text,
    error_type                 text,
    error                      text,
    started_at                 timestamptz NOT NULL,
    finished_at                timestamptz NOT NULL,
    duration_s                 double precision NOT NULL,
    results                    jsonb NOT NULL,
    phases                     jsonb NOT NULL
);
CREATE INDEX executions_by_guard ON executions (guard_id, started_at DESC);
CREATE INDEX executions_by_time ON executions (started_at DESC);

-- One protective step on one position. The intent comes before its execution's row, which is
-- written at the end: so there is no foreign key.
CREATE TABLE actions (
    id           uuid PRIMARY KEY,
    execution_id uuid NOT NULL,
    guard_id     text NOT NULL,
    account_id   text NOT NULL,
    position_id  text NOT NULL,
    episode_id   text NOT NULL,
    kind         text NOT NULL,
    amount       bigint NOT NULL,  -- sats
    status       text NOT NULL
        CHECK (status IN ('intended', 'sent', 'done', 'rejected', 'unknown', 'gone')),
    dry_run      boolean NOT NULL,
    reason       text NOT NULL,
    level        double precision NOT NULL,
    threshold    double precision NOT NULL,
    before       jsonb NOT NULL,
    intended_at  timestamptz NOT NULL,
    after        jsonb,
    sent_at      timestamptz,
    settled_at   timestamptz,
    attempts     integer NOT NULL,
    outcome      text,
    exchange_id  text,
    client_id    text,
    error        text,
    proof        text,
    frozen       boolean NOT NULL
);
CREATE INDEX actions_by_execution ON actions (execution_id);
CREATE INDEX actions_by_position ON actions (account_id, position_id, intended_at DESC);
CREATE INDEX actions_by_time ON actions (intended_at DESC);
CREATE INDEX actions_unsettled ON actions (intended_at) WHERE settled_at IS NULL;

-- Whether each guard guards, and what it remembers.
CREATE TABLE guard_state (
    guard_id   text PRIMARY KEY,
    account_id text NOT NULL,
    armed      text NOT NULL CHECK (armed IN ('armed', 'degraded', 'disarmed')),
    reason     text NOT NULL,
    since      timestamptz NOT NULL,
    memory     jsonb NOT NULL,
    updated_at timestamptz NOT NULL
);

-- What each guard has done so far. `checks` are the looks that found nothing to do.
CREATE TABLE guard_stats (
    guard_id        text PRIMARY KEY,
    account_id      text NOT NULL,
    executions      bigint NOT NULL DEFAULT 0,
    completed       bigint NOT NULL DEFAULT 0,
    partial         bigint NOT NULL DEFAULT 0,
    failed          bigint NOT NULL DEFAULT 0,
    skipped         bigint NOT NULL DEFAULT 0,
    duration_s      double precision NOT NULL DEFAULT 0,
    last_execution  timestamptz,
    checks          bigint NOT NULL DEFAULT 0,
    last_checked_at timestamptz
);

-- The newest view of each running position; `guard_id` is null when no armed guard covers it.
CREATE TABLE positions (
    account_id           text NOT NULL,
    position_id          text NOT NULL,
    guard_id             text,
    mode                 text NOT NULL,
    side                 text NOT NULL,
    quantity             bigint NOT NULL,  -- USD
    entry_price          double precision NOT NULL,
    leverage             double precision NOT NULL,
    margin               bigint NOT NULL,  -- sats
    pl                   bigint NOT NULL,  -- sats
    price                double precision NOT NULL,
    level                double precision NOT NULL,
    risk                 text NOT NULL,
    trigger_price        double precision,
    liquidation_price    double precision,
    liquidation_distance double precision,
    seen_at              timestamptz NOT NULL,
    PRIMARY KEY (account_id, position_id)
);

-- The margin level of each position over time, thinned.
CREATE TABLE margin_history (
    account_id  text NOT NULL,
    position_id text NOT NULL,
    at          timestamptz NOT NULL,
    guard_id    text,
    level       double precision NOT NULL,
    risk        text NOT NULL,
    price       double precision NOT NULL,
    margin      bigint NOT NULL,  -- sats
    PRIMARY KEY (account_id, position_id, at)
);
