"""100 pictures under a real quota, as people make them today and with Pixmill: see docs/measured/today.md."""
