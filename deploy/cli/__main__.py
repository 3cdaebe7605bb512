"""`python -m deploy.cli`: the console script without an installed entry point."""

from deploy.cli import main

main()
