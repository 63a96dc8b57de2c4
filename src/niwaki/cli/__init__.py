"""The command line: thin verbs over `niwaki.pipelines`.

Heavy imports stay inside the verbs, so that `niwaki --help` answers at once. Errors that the user can mend
are a message and a remedy on stderr with exit code 2; Ctrl-C is exit code 130. See docs/cli.md.
"""

from niwaki.cli import runs, stages

# isort: split
from niwaki.cli import curate, mask, reason, reward, verify

# isort: split
from niwaki.cli import share

# isort: split
from niwaki.cli import look
from niwaki.cli.app import EXIT_INTERRUPTED, EXIT_USER_ERROR, EXIT_WRONG_ANSWER, app

# `--help` lists the verbs in the order in which these modules are imported.
VERBS = (runs, stages, curate, mask, reason, reward, verify, share, look)


def main() -> None:
    """Entry point of the `niwaki` command."""
    app()


__all__ = ["EXIT_INTERRUPTED", "EXIT_USER_ERROR", "EXIT_WRONG_ANSWER", "VERBS", "app", "main"]
