"""Provider accounts: their routes, their quotas in force, and the reports of their providers."""
