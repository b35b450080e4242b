"""The page: pictures, quotas and reasons in a browser. Its files need no build; their data comes from the API alone."""
