"""How well a fleet keeps to a provider's limits, beside five libraries. See __main__.py.

`scenarios` has the jobs, rules and bounds; `setup` the values of a run. `rig` starts `provider` and the replicas of
`peers` as real processes. `figures` judges the arrivals, with what `oracle` computes. `cost` measures the server.
"""
