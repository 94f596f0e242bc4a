"""The table of all entries by family, and which public names it does not call."""

from . import (
    entries_commands,
    entries_conditioning,
    entries_mathematics,
    entries_networks,
    entries_pipelines,
    entries_schedulers,
    entries_training,
)
from .case import Entry


TABLES = (
    entries_mathematics,
    entries_schedulers,
    entries_networks,
    entries_conditioning,
    entries_pipelines,
    entries_training,
    entries_commands,
)
FAMILIES: dict[str, list[Entry]] = {
    family: [entry for entry in entries if entry.exists]
    for table in TABLES
    for family, entries in table.ENTRIES.items()
}
