-- What a projection of a log needs beside its rows: where a row comes from, where the projection
-- stands, and whose a row is. Every row that is there stays.

-- Keys and versions are compared byte by byte, as the node compares them. This rebuilds indexes,
-- not tables.
ALTER TABLE arqonbus_continuum_projection
    ALTER COLUMN tenant_id TYPE TEXT COLLATE "C",
    ALTER COLUMN agent_id TYPE TEXT COLLATE "C",
    ALTER COLUMN episode_id TYPE TEXT COLLATE "C",
    ALTER COLUMN last_event_id TYPE TEXT COLLATE "C",
    ADD COLUMN IF NOT EXISTS last_sequence BIGINT;

-- The list shows the newest first.
CREATE INDEX IF NOT EXISTS idx_arqonbus_cont_proj_updated_at
    ON arqonbus_continuum_projection (tenant_id, updated_at DESC);

ALTER TABLE arqonbus_continuum_projection_events
    ALTER COLUMN tenant_id TYPE TEXT COLLATE "C",
    ALTER COLUMN agent_id TYPE TEXT COLLATE "C",
    ALTER COLUMN event_id TYPE TEXT COLLATE "C",
    ADD COLUMN IF NOT EXISTS outcome TEXT,
    ADD COLUMN IF NOT EXISTS sequence BIGINT;

-- Dead letters had no tenant of their own; their events name one. What names none belongs to nobody.
ALTER TABLE arqonbus_continuum_projection_dlq
    ADD COLUMN IF NOT EXISTS tenant_id TEXT COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS topic TEXT,
    ADD COLUMN IF NOT EXISTS sequence BIGINT,
    ADD COLUMN IF NOT EXISTS attempts BIGINT NOT NULL DEFAULT 1,
    ADD COLUMN IF NOT EXISTS letter_sequence BIGINT,
    ALTER COLUMN dlq_id TYPE TEXT COLLATE "C";
UPDATE arqonbus_continuum_projection_dlq
   SET tenant_id = coalesce(event ->> 'tenant_id', '')
 WHERE tenant_id = '';
ALTER TABLE arqonbus_continuum_projection_dlq
    DROP CONSTRAINT arqonbus_continuum_projection_dlq_pkey,
    ADD PRIMARY KEY (tenant_id, dlq_id);

-- The history had no tenant either. Two tenants may use the same message id.
ALTER TABLE arqonbus_message_history
    ADD COLUMN IF NOT EXISTS tenant_id TEXT COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS topic TEXT,
    ADD COLUMN IF NOT EXISTS sequence BIGINT,
    ALTER COLUMN message_id TYPE TEXT COLLATE "C";
UPDATE arqonbus_message_history
   SET tenant_id = coalesce(envelope ->> 'tenant_id', envelope -> 'metadata' ->> 'tenant_id', '')
 WHERE tenant_id = '';
ALTER TABLE arqonbus_message_history
    DROP CONSTRAINT arqonbus_message_history_message_id_key,
    ADD CONSTRAINT arqonbus_message_history_tenant_message_key UNIQUE (tenant_id, message_id);

-- Where each projection stands, moved in the transaction that writes its rows.
CREATE TABLE arqonbus_projection_cursor (
    projection TEXT COLLATE "C" NOT NULL,
    tenant_id TEXT COLLATE "C" NOT NULL,
    reality TEXT COLLATE "C" NOT NULL,
    copy TEXT COLLATE "C" NOT NULL CHECK (copy IN ('live', 'next')),
    next_sequence BIGINT NOT NULL CHECK (next_sequence > 0),
    owner_epoch BIGINT NOT NULL,
    hash BYTEA NOT NULL CHECK (octet_length(hash) = 32),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, tenant_id, reality, copy)
);

-- No epoch is given twice, not even to a position that was removed and made again.
CREATE SEQUENCE arqonbus_projection_epoch;

-- Which tenants a login role that reads may see: one row each, or '*' for one that is trusted to
-- name them itself. What is not here sees nothing.
CREATE TABLE arqonbus_reader_tenant (
    role_name TEXT COLLATE "C" NOT NULL,
    tenant_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (role_name, tenant_id)
);
ALTER TABLE arqonbus_reader_tenant ENABLE ROW LEVEL SECURITY;
CREATE POLICY arqonbus_own ON arqonbus_reader_tenant FOR SELECT
    USING (role_name = session_user);

-- Those who read. Where this role may not make it, somebody else has to.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'arqonbus_reader') THEN
        CREATE ROLE arqonbus_reader NOLOGIN;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'the role arqonbus_reader could not be made: CREATE ROLE arqonbus_reader NOLOGIN';
END
$$;

-- Rows of the tenants that the transaction names in `app.tenants` are there, and no others, for the
-- owner too; where it names none, the owner sees all. Sub-selects are evaluated once for a
-- statement, not once for a row. No index can follow `<@`, so that the condition never makes the
-- planner prefer one by tenant alone, and read all rows of a tenant, where a statement asks for keys.
-- A reader sees of them those that its login role is bound to. Can be called again: for a table that
-- has all of it, it changes nothing.
CREATE FUNCTION arqonbus_guard(target REGCLASS, readable BOOLEAN) RETURNS VOID
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = target AND polname = 'arqonbus_tenants') THEN
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target);
        EXECUTE format(
            'CREATE POLICY arqonbus_tenants ON %s USING (ARRAY[tenant_id] <@ (SELECT string_to_array('
            'current_setting(''app.tenants'', true), '','')))', target);
        EXECUTE format(
            'CREATE POLICY arqonbus_owner ON %s USING ('
            'coalesce((SELECT current_setting(''app.tenants'', true)), '''') = '''' AND '
            '(SELECT pg_has_role(c.relowner, ''USAGE'') FROM pg_class AS c WHERE c.oid = %L::regclass))',
            target, target);
    END IF;
    IF readable AND EXISTS (SELECT FROM pg_roles WHERE rolname = 'arqonbus_reader') THEN
        IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = target AND polname = 'arqonbus_bound') THEN
            EXECUTE format(
                'CREATE POLICY arqonbus_bound ON %s AS RESTRICTIVE FOR SELECT TO arqonbus_reader USING ('
                '(SELECT bool_or(b.tenant_id = ''*'') FROM arqonbus_reader_tenant AS b'
                ' WHERE b.role_name = session_user) OR ARRAY[tenant_id] <@ (SELECT array_agg(b.tenant_id)'
                ' FROM arqonbus_reader_tenant AS b WHERE b.role_name = session_user))', target);
        END IF;
        IF NOT has_table_privilege('arqonbus_reader', target, 'SELECT') THEN
            EXECUTE format('GRANT SELECT ON %s TO arqonbus_reader', target);
        END IF;
        IF NOT has_table_privilege('arqonbus_reader', 'arqonbus_reader_tenant', 'SELECT') THEN
            GRANT SELECT ON arqonbus_reader_tenant TO arqonbus_reader;
        END IF;
        IF NOT has_schema_privilege('arqonbus_reader', current_schema(), 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO arqonbus_reader', current_schema());
        END IF;
    END IF;
END
$$;

SELECT arqonbus_guard('arqonbus_continuum_projection', true);
SELECT arqonbus_guard('arqonbus_continuum_projection_events', true);
SELECT arqonbus_guard('arqonbus_continuum_projection_dlq', true);
SELECT arqonbus_guard('arqonbus_message_history', true);
SELECT arqonbus_guard('arqonbus_projection_cursor', true);
