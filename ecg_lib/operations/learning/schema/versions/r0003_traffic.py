"""Where requests came from, comparisons of a candidate, and how retrainings ended."""

from __future__ import annotations

import sqlalchemy as sa

from ecg_lib.operations.learning.schema.steps import (
    add_column,
    add_index,
    add_table,
    drop_table,
)

revision = "r0003"
down_revision = "r0002"


def upgrade() -> None:
    """Make the tables."""
    add_table(
        "requests",
        sa.Column("request_id", sa.String(36), primary_key=True),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("bundle_hash", sa.String(64), nullable=False),
        sa.Column("bento_tag", sa.String(128), nullable=False),
        sa.Column("duration_s", sa.Float, nullable=False),
        sa.Column("refused", sa.String(64)),
        sa.Column("patient_key", sa.String(64)),
        sa.Column("client", sa.String(64)),
        sa.Column("owner", sa.String(64)),
        sa.Column("slices", sa.Text, nullable=False),
        sa.Column("observed", sa.Text),
    )
    for name in ("created_at", "patient_key"):
        add_index(f"ix_requests_{name}", "requests", [name])
    counts = (
        *("n_nn", "n_nv", "n_vn", "n_vv", "n_unclassed"),
        *("v_champion", "v_candidate", "judged_champion", "judged_candidate"),
        *("runs_champion", "runs_candidate"),
    )
    add_table(
        "comparisons",
        sa.Column("prediction_id", sa.String(36), primary_key=True),
        sa.Column("candidate_id", sa.String(36), primary_key=True),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("stage", sa.Integer, nullable=False),
        sa.Column("answered_by", sa.String(16), nullable=False),
        sa.Column("traffic_group", sa.String(80), nullable=False),
        sa.Column("duration_s", sa.Float, nullable=False),
        *(sa.Column(name, sa.Integer, nullable=False) for name in counts),
        sa.Column("ms_champion", sa.Float),
        sa.Column("ms_candidate", sa.Float),
        sa.Column("failure", sa.String(200)),
        sa.Column("n_disagreements", sa.Integer, nullable=False),
        sa.Column("disagreements", sa.Text),
    )
    add_column("comparisons", sa.Column("champion_refused", sa.Boolean))
    add_index("ix_comparisons_created_at", "comparisons", ["created_at"])
    add_index(
        "ix_comparisons_of_candidate", "comparisons", ["candidate_id", "stage", "traffic_group"]
    )
    add_index(
        "ix_comparisons_that_differ",
        "comparisons",
        ["candidate_id", "n_disagreements", "created_at"],
    )
    add_table(
        "retrainings",
        sa.Column("retraining_id", sa.String(36), primary_key=True),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("bundle_hash", sa.String(64), nullable=False),
        sa.Column("dataset_version", sa.String(64), nullable=False),
        sa.Column("has_helped", sa.Boolean, nullable=False),
        sa.Column("reasons", sa.Text, nullable=False),
        sa.Column("labels", sa.String(64), nullable=False),
    )
    add_index("ix_retrainings_created_at", "retrainings", ["created_at"])


def downgrade() -> None:
    """Drop the tables with their rows."""
    for name in ("retrainings", "comparisons", "requests"):
        drop_table(name)
