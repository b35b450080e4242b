"""Parts that keep an installation in order: each looks by itself, again and again."""
