"""Owners of rows, all marks of a reader, the random sample for review, and open decisions."""

from __future__ import annotations

import sqlalchemy as sa

from ecg_lib.operations.learning.schema.steps import (
    add_column,
    add_index,
    add_table,
    drop_column,
    drop_index,
    drop_table,
)

revision = "r0002"
down_revision = "r0001"


def upgrade() -> None:
    """Add the columns and the table; the new columns of existing rows are null."""
    add_column("predictions", sa.Column("owner", sa.String(64)))
    add_column("predictions", sa.Column("is_drawn", sa.Boolean))
    add_column("predictions", sa.Column("doubt", sa.Float))
    add_column("feedback", sa.Column("owner", sa.String(64)))
    add_column("feedback", sa.Column("marks", sa.Text))
    add_column("feedback", sa.Column("withdraws", sa.String(36)))
    add_index("ix_feedback_withdraws", "feedback", ["withdraws"])
    add_index("ix_predictions_to_review", "predictions", ["is_drawn", "doubt"])
    add_index(
        "ix_predictions_of_bundle", "predictions", ["bundle_hash", "created_at", "duration_s"]
    )
    # With it, SQLite would read all rows of a bundle.
    drop_index("ix_predictions_bundle_hash", "predictions")
    add_table(
        "decisions",
        sa.Column("decision_id", sa.String(36), primary_key=True),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("deployment", sa.String(128), nullable=False),
        sa.Column("parameters", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("run_id", sa.String(36)),
        sa.Column("attempt", sa.Integer, nullable=False),
    )
    for name in ("created_at", "state"):
        add_index(f"ix_decisions_{name}", "decisions", [name])


def downgrade() -> None:
    """Drop the columns and the table; labels by beat, predictions and checks stay."""
    drop_table("decisions")
    add_index("ix_predictions_bundle_hash", "predictions", ["bundle_hash"])
    drop_index("ix_predictions_of_bundle", "predictions")
    drop_index("ix_predictions_to_review", "predictions")
    drop_index("ix_feedback_withdraws", "feedback")
    for name in ("withdraws", "marks", "owner"):
        drop_column("feedback", name)
    for name in ("doubt", "is_drawn", "owner"):
        drop_column("predictions", name)
