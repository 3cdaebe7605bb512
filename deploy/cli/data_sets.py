"""The data that `train`, `backtest` and `evaluate` take: a data set by its name, or one's own files."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.errors import ConfigurationError

if TYPE_CHECKING:
    from deploy.sources import Source


class DataSet(enum.StrEnum):
    COMPLETE_JOURNEY = "complete-journey"
    OLIST = "olist"
    UCI = "uci"
    FILES = "files"


Data = Annotated[
    DataSet,
    typer.Argument(
        metavar="DATA",
        help="complete-journey: a year of grocery sales that comes with trendstream, simulated by its authors; "
        "olist: the published files of the marketplace, in the folder PATH; uci: UCI Online Retail or data in its "
        "layout, in the file PATH (.parquet, .csv or .xlsx); files: your own events, in the folder PATH that holds "
        "orders.ndjson and the like, as `trendstream load files` takes them.",
    ),
]
DataPath = Annotated[Path | None, typer.Argument(metavar="PATH", help="Where it lies; complete-journey has none.")]
_TAKES = {
    DataSet.COMPLETE_JOURNEY: "no PATH: it comes with trendstream",
    DataSet.OLIST: "the PATH of its folder, and no number of products",
    DataSet.UCI: "the PATH of its file, and no number of products but --products",
    DataSet.FILES: "the PATH of a folder, and no number of products",
}


def open_source(
    data: DataSet, path: Path | None, drawn: Mapping[str, int | None], journey: Mapping[str, Any]
) -> Source:
    """`drawn`: how many products were asked for, None where nobody asked. `journey`: what CompleteJourney is told where
    `drawn` says nothing else. Raises ConfigurationError for what does not go together."""
    asked = {name: count for name, count in drawn.items() if count is not None}
    match data, path:
        case DataSet.COMPLETE_JOURNEY, None:
            from deploy.sources.complete_journey import CompleteJourney

            return CompleteJourney(**{**journey, **asked})
        case DataSet.UCI, Path() as file if asked.keys() <= {"products"}:
            from deploy.sources.uci import UciRetail

            return UciRetail(file, asked.get("products"))
        case DataSet.OLIST, Path() as folder if not asked:
            from deploy.sources.olist import Olist

            return Olist(folder)
        case DataSet.FILES, Path() as folder if not asked:
            from deploy.sources.files import FilesSource

            return FilesSource(folder)
    raise ConfigurationError(f"{data} takes {_TAKES[data]}")
