"""The limiter in virtual time, and what people do without one."""
