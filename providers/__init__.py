"""Image-generation providers: one interface (`base`), one taxonomy of failures (`errors`), one package a provider.

To add a provider, say "fal":
1. `fal/provider.py`: a `create` function, and a subclass of `HttpProvider` or `OneCallProvider` (`shared/provider.py`)
   that builds requests and reads answers; `fal/models.py`: the limits of its models; `fal/errors.py`: its codes.
2. `registry.py`: its name and the path of `create`. (Another package uses the entry point that the registry names.)
3. `simulator/wires/fal.py`: a `CallWire` or `TaskWire` that speaks its API; `simulator/server.py` lists it.
4. `tests/providers/conformance.py`: one `Case`, so that it passes the suite of all providers.
"""
