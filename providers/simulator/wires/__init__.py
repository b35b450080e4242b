"""The providers' wires as the simulator speaks them."""
