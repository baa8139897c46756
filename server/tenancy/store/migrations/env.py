"""Alembic runs this for each command: the steps go through the connection that it was given."""

from alembic import context

from senryu.server.tenancy.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters few things in place
    transaction_per_migration=False,
)
context.run_migrations()
