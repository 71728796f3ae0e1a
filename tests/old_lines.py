"""Journal lines as they were written before there were reductions and stop-losses."""

ACTION = (
    b'{"record":{"id":"019ced40-7a00-7000-8000-000000000001",'
    b'"execution_id":"019ced40-7a00-7000-8000-000000000002","guard_id":"guard-1",'
    b'"account_id":"main","position_id":"trade-1",'
    b'"episode_id":"guard-1/trade-1/80/2026-03-14T12:00:00+00:00","kind":"add_margin",'
    b'"amount":25000,"status":"done","dry_run":false,'
    b'"reason":"level 80.2 % has reached the threshold 80 %","level":80.2,"threshold":80.0,'
    b'"before":{"quantity":1000,"margin":100000,"entry_price":100000.0,'
    b'"liquidation_price":90909.5,"funding_paid":-3,"cashed_in":0,"price":93000.5},'
    b'"intended_at":"2026-03-14T12:00:00.123456Z","after":{"quantity":1000,"margin":125000,'
    b'"entry_price":100000.0,"liquidation_price":90909.5,"funding_paid":-3,"cashed_in":0,'
    b'"price":93000.5},"sent_at":"2026-03-14T12:00:00.143456Z",'
    b'"settled_at":"2026-03-14T12:00:00.273456Z","attempts":1,"outcome":"done",'
    b'"exchange_id":null,"client_id":null,"error":null,'
    b'"proof":"the margin rose from 100,000 to 125,000 sats","frozen":false},"kind":"action"}'
)

GUARD = (
    b'{"record":{"guard_id":"guard-1","account_id":"main","armed":"armed",'
    b'"reason":"the account answers","since":"2026-03-14T12:00:00.123456Z",'
    b'"memory":{"episodes":[{"id":"guard-1/trade-1/80/2026-03-14T12:00:00+00:00",'
    b'"position_id":"trade-1","threshold":80.0,"opened_at":"2026-03-14T12:00:00.123456Z",'
    b'"last_action_at":"2026-03-14T12:00:01.123456Z","last_action_level":80.2,'
    b'"refusal":"the balance is too small"}],'
    b'"spends":[{"action_id":"019ced40-7a00-7000-8000-000000000001","position_id":"trade-1",'
    b'"amount":25000,"at":"2026-03-14T12:00:00.123456Z"}],"opening":{"day":"2026-03-14",'
    b'"balance":1000000}},"updated_at":"2026-03-14T12:00:00.123456Z"},"kind":"guard"}'
)
