"""Lists that several folders of tests use: the records of MIT-BIH, the predictions of a log."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from ecg_lib.operations.learning.schema.tables import PREDICTIONS
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.records.annotations import DS1, DS2, PACED

MITDB_RECORDS: Final = tuple(sorted(DS1 + DS2 + PACED))
"""The 48 records of the MIT-BIH Arrhythmia Database."""


def list_predictions(log: PredictionLog) -> list[str]:
    """Ids of all predictions of a log, oldest first."""
    table = PREDICTIONS.c
    query = sa.select(table.prediction_id).order_by(table.created_at, table.prediction_id)
    with log.open_transaction() as connection:
        return list(connection.execute(query).scalars())
