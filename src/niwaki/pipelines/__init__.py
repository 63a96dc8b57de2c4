"""Start reading here: each file is its paper, in order."""
