"""``systrap explain``: one round trip between guest and sentry, run for real, stopped at each step, and told."""
