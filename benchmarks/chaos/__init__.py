"""A fleet under faults, kills, stops, cuts, a restart and a deploy, and the invariants of each run. See __main__.py.

`plan` is the work and its faults, all from one seed. `stage` and `fleet` are the real processes, `strikes` hits them.
`story` reads the books afterwards, `invariants` checks them. `recovery`, `losses` and `fairness` measure one promise
each.
"""
