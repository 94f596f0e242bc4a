"""The table of all entries by family."""

from . import (
    entries_arguments,
    entries_commands,
    entries_conditioning,
    entries_flow,
    entries_mathematics,
    entries_networks,
    entries_pipelines,
    entries_schedulers,
    entries_training,
)
from .case import Entry


TABLES = (
    entries_mathematics,
    entries_flow,
    entries_schedulers,
    entries_networks,
    entries_conditioning,
    entries_pipelines,
    entries_training,
    entries_arguments,
    entries_commands,
)
FAMILIES: dict[str, list[Entry]] = {family: entries for table in TABLES for family, entries in table.ENTRIES.items()}
