SELECT to_regclass('positions') IS NOT NULL
