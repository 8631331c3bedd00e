"""`python -m lopt` is the `lopt` command."""

from lopt.cli import main

main()
