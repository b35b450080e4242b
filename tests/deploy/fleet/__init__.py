"""A fleet on this machine, as deployed: replicas, a gateway, a simulated provider, and the Prometheus of deploy/."""
