"""What these benchmarks share: how they read a file, what counts as processor time, and how they report."""

import json
import resource

from niwaki.curation.sources import read_source


def stream(name, form, path):
    """A source of `curate`: the questions of a file or folder."""
    return lambda aside: read_source(name, adapter=form, path=str(path), aside=aside)


def processor_s():
    """What this process and its finished children have used so far."""
    usage = [resource.getrusage(which) for which in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


def report(figures, out):
    """Print the figures, and write them to the file `out` unless it is None."""
    print(json.dumps(figures, indent=1))
    if out is not None:
        out.write_text(json.dumps(figures, indent=1) + "\n")
