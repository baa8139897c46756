"""The tables. What may grow for ever is in the ledger alone; every time is in milliseconds since
1970, UTC; sums of money are in billionths of a dollar.

A change here wants a migration in `migrations/versions`; a test compares the two.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

workspaces = Table(
    "workspaces",
    metadata,
    Column("id", String(40), primary_key=True),  # wrkspc_...
    Column("name", String(64), nullable=False, unique=True),
    Column("limits", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(40), primary_key=True),  # apikey_...
    Column("name", String(64), nullable=False, unique=True),
    Column("workspace_id", ForeignKey(workspaces.c.id), nullable=True),
    Column("role", String(8), nullable=False),  # admin, user, batch
    Column("digest", String(64), nullable=False, unique=True),  # SHA-256 of the key
    Column("hint", String(8), nullable=False),  # its last characters
    Column("old_digest", String(64), nullable=True, unique=True),  # of the one before, which is
    Column("old_expires_at", BigInteger, nullable=True),  # ... good until then
    Column("limits", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=True),
    Column("disabled", Boolean, nullable=False, default=False),
    Column("revoked_at", BigInteger, nullable=True),
)

# How often keys and workspaces have changed: one row, so that a server that asks every second
# whether it still knows them all is told cheaply.
changes = Table(
    "changes",
    metadata,
    Column("name", String(8), primary_key=True),  # keys
    Column("number", BigInteger, nullable=False),
)

# Servers that use this database, each with a row of its own that it keeps fresh.
servers = Table(
    "servers",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
)

# One row a request, written when it is admitted and completed when it ends. Names of keys and
# workspaces may change or go: the ledger keeps ids, and those of the settings' keys are names.
ledger = Table(
    "ledger",
    metadata,
    Column("id", String(40), primary_key=True),  # of the message: msg_...
    Column("request_id", String(40), nullable=False),
    Column("server", String(40), nullable=False),  # which one answered
    Column("key_id", String(80), nullable=True),
    Column("workspace_id", String(80), nullable=True),
    Column("model", String(255), nullable=False),
    Column("task", String(64), nullable=True),
    Column("user_hash", String(16), nullable=True),
    Column("tier", String(8), nullable=False),  # standard, batch
    Column("state", String(8), nullable=False),  # open, done, left, failed, lost
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=True),
    Column("input_tokens", Integer, nullable=False, default=0),
    Column("cache_read_tokens", Integer, nullable=False, default=0),
    Column("cache_creation_5m_tokens", Integer, nullable=False, default=0),
    Column("cache_creation_1h_tokens", Integer, nullable=False, default=0),
    Column("output_tokens", Integer, nullable=False, default=0),
    Column("thinking_tokens", Integer, nullable=False, default=0),
    Column("stop_reason", String(40), nullable=True),
    Column("queued_ms", Integer, nullable=True),
    Column("first_token_ms", Integer, nullable=True),
    Column("cost", BigInteger, nullable=False, default=0),  # billionths of a dollar
    Column("batch_id", String(40), nullable=True),
    Index("ix_ledger_started_at", "started_at"),
    Index("ix_ledger_key_id_started_at", "key_id", "started_at"),
    Index("ix_ledger_state", "state"),
)

batches = Table(
    "batches",
    metadata,
    Column("id", String(40), primary_key=True),  # msgbatch_...
    Column("key_id", String(80), nullable=True),
    Column("workspace_id", String(80), nullable=True),
    Column("version", String(16), nullable=False),  # of the API, for each of its requests
    Column("betas", JSON, nullable=False),
    Column("task", String(64), nullable=True),
    Column("server", String(40), nullable=True),  # which one works on it
    Column("status", String(12), nullable=False),  # creating, in_progress, canceling, ended
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("cancel_initiated_at", BigInteger, nullable=True),
    Column("ended_at", BigInteger, nullable=True),
    Column("archived_at", BigInteger, nullable=True),
    Column("requests", Integer, nullable=False),
    Column("succeeded", Integer, nullable=False, default=0),
    Column("errored", Integer, nullable=False, default=0),
    Column("canceled", Integer, nullable=False, default=0),
    Column("expired", Integer, nullable=False, default=0),
    Index("ix_batches_created_at", "created_at"),
)

batch_items = Table(
    "batch_items",
    metadata,
    Column("batch_id", ForeignKey(batches.c.id, ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("custom_id", String(64), nullable=False),
    Column("params", Text, nullable=True),  # JSON; gone once there is a result
    Column("state", String(9), nullable=False),  # pending, succeeded, errored, canceled, expired
    Column("result", Text, nullable=True),  # JSON
    UniqueConstraint("batch_id", "custom_id"),
    Index("ix_batch_items_batch_id_state_number", "batch_id", "state", "number"),
)

files = Table(
    "files",
    metadata,
    Column("id", String(40), primary_key=True),  # file_...
    Column("key_id", String(80), nullable=True),
    Column("workspace_id", String(80), nullable=True),
    Column("filename", String(255), nullable=False),
    Column("mime_type", String(255), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=True),
    Index("ix_files_created_at", "created_at"),
    Index("ix_files_sha256", "sha256"),
)
