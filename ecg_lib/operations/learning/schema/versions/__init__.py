"""The versions of the schema, one module each; Alembic loads them by path."""
