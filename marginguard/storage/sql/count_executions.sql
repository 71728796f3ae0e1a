-- How many executions there are.
SELECT count(*) FROM executions
