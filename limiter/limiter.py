"""The limiter's public class: permits for provider calls of a whole fleet, each decided in one atomic call of Redis.

If Redis cannot answer, the error reaches the caller and nothing may be sent: there is never a local fallback.
The methods are in limiter/scripts, each beside the Lua script that it calls.
"""

from __future__ import annotations

from limiter.scripts.refusals import Refusals
from limiter.scripts.states import States


class Limiter(States, Refusals):
    """Grants, renews and ends permits for all quotas of one installation.

    Before a call: `acquire`; `retime` if it is late for its slot. After it: `release`, or `give_back` if it was not
    sent. While it runs: `renew` or `submitted`. After a refusal: `penalise` or `exhausted`. For the provider's
    headers: `observe`. For operators: `pause`, `resume`, `snapshot`, `explain`.

    `prefix` begins every key (on Redis Cluster: with a hash tag). A lease that is not renewed ends `lease_s`
    after its slot. `clock` replaces the server's time (integer µs) in every script: for tests and simulations
    in virtual time only, where all limiters of one server must share it.

    Errors: those of the client, from every method; QuotaError and ValueError only from methods that name them.
    """
