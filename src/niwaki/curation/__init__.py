"""CrossThink data: sources -> filters -> templates -> difficulty -> blends. Start in curate.py."""
