"""A fleet under faults, kills, stops, cuts, a restart and a deploy, and what must hold afterwards. See __main__.py.

`plan` what is to happen, all of it from one seed; `stage` and `fleet` the real processes; `strikes` what hits them;
`story` what was left; `invariants` what it must show; `recovery` and `fairness` two promises measured by themselves.
"""
