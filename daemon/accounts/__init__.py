"""Provider accounts: what routes lead to, what quotas are in force, what providers report."""
