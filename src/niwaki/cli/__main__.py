"""`python -m niwaki.cli` is the `niwaki` command."""

from niwaki.cli import main

main()
