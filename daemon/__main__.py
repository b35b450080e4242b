"""`python -m daemon` is `pixmill`."""

from daemon.cli.main import run

if __name__ == "__main__":
    run()
