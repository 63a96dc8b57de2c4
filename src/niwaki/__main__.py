"""`python -m niwaki` is the `niwaki` command."""

from niwaki.cli import main

main()
