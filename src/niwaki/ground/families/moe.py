"""Families with experts. In memory the experts of a layer are one tensor; on disk each has its own."""

from __future__ import annotations

from niwaki.ground.table import Family

FAMILIES: tuple[Family, ...] = ()
