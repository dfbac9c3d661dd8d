"""Predictions, feedback and drift checks."""

from __future__ import annotations

import sqlalchemy as sa

from ecg_lib.operations.learning.schema.steps import add_index, add_table, drop_table

revision = "r0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    is_new = add_table(
        "predictions",
        sa.Column("prediction_id", sa.String(36), primary_key=True),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("patient_key", sa.String(64)),
        sa.Column("bundle_hash", sa.String(64), nullable=False),
        sa.Column("bento_tag", sa.String(128), nullable=False),
        sa.Column("duration_s", sa.Float, nullable=False),
        sa.Column("response", sa.Text, nullable=False),
        sa.Column("observed", sa.Text, nullable=False),
    )
    if is_new:  # the next version drops it, and with many rows it takes long to make
        add_index("ix_predictions_bundle_hash", "predictions", ["bundle_hash"])
    for name in ("created_at", "patient_key"):
        add_index(f"ix_predictions_{name}", "predictions", [name])
    add_table(
        "feedback",
        sa.Column("feedback_id", sa.String(36), primary_key=True),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("prediction_id", sa.String(36), nullable=False),
        sa.Column("annotator", sa.String(128)),
        sa.Column("labels", sa.Text, nullable=False),
    )
    for name in ("created_at", "prediction_id"):
        add_index(f"ix_feedback_{name}", "feedback", [name])
    add_table(
        "drift_checks",
        sa.Column("check_id", sa.String(36), primary_key=True),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("bundle_hash", sa.String(64), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
    )
    add_index("ix_drift_checks_created_at", "drift_checks", ["created_at"])


def downgrade() -> None:
    """Drop the tables with their rows."""
    for name in ("drift_checks", "feedback", "predictions"):
        drop_table(name)
