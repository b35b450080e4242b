-- The tables of `pixmill mirror`. `(event_ms, event_seq)` is the stream id that a row is as new as: nothing older
-- overwrites it. A row `from_record` was read from its record, and so has the effects of all events up to that id.
CREATE TABLE IF NOT EXISTS pixmill_items (
  tenant text NOT NULL,
  batch text NOT NULL,  -- '' for a job of its own
  item text NOT NULL,
  job text NOT NULL,
  state text NOT NULL,  -- 'unknown': its end was missed, and its record has ended since
  attempts integer NOT NULL,
  error jsonb,
  images jsonb,
  metadata jsonb NOT NULL,
  cost jsonb,
  provider_task_id text,
  queue_seconds double precision,
  throttled_seconds double precision,
  provider_seconds double precision,
  accepted_at timestamptz,
  started_at timestamptz,
  finished_at timestamptz,
  event_ms bigint NOT NULL,
  event_seq bigint NOT NULL,
  from_record boolean NOT NULL,
  PRIMARY KEY (tenant, batch, item)
);

CREATE INDEX IF NOT EXISTS pixmill_items_open ON pixmill_items (tenant, batch, item)
  WHERE state NOT IN ('succeeded', 'failed', 'cancelled', 'expired', 'unknown');

CREATE INDEX IF NOT EXISTS pixmill_items_running ON pixmill_items (event_ms) WHERE state = 'running';

CREATE TABLE IF NOT EXISTS pixmill_batches (
  tenant text NOT NULL,
  batch text NOT NULL,
  state text NOT NULL,
  total integer NOT NULL,
  queued integer NOT NULL,
  throttled integer NOT NULL,
  retry_wait integer NOT NULL,
  running integer NOT NULL,
  succeeded integer NOT NULL,
  failed integer NOT NULL,
  cancelled integer NOT NULL,
  expired integer NOT NULL,
  held integer NOT NULL,
  metadata jsonb NOT NULL,
  accepted_at timestamptz,
  finished_at timestamptz,
  event_ms bigint NOT NULL,
  event_seq bigint NOT NULL,
  from_record boolean NOT NULL,
  PRIMARY KEY (tenant, batch)
);

CREATE INDEX IF NOT EXISTS pixmill_batches_open ON pixmill_batches (tenant, batch) WHERE state = 'running';

-- How far the stream has been written.
CREATE TABLE IF NOT EXISTS pixmill_position (
  stream text PRIMARY KEY,
  event_ms bigint NOT NULL,
  event_seq bigint NOT NULL
);

-- One row for each batch and each job. All counts are pictures: an item is one picture that was asked for.
CREATE OR REPLACE VIEW pixmill_progress AS
SELECT
  seen.tenant,
  seen.id,
  seen.kind,
  greatest(seen.items, batches.total) AS total,
  seen.succeeded,
  seen.failed,
  seen.cancelled,
  seen.expired,
  seen.ended,
  round(seen.ended / greatest(seen.items, batches.total)::numeric, 4) AS progress,
  seen.result_image_urls,
  seen.accepted_at,
  seen.finished_at
FROM (
  SELECT
    tenant,
    CASE WHEN batch = '' THEN job ELSE batch END AS id,
    CASE WHEN batch = '' THEN 'job' ELSE 'batch' END AS kind,
    count(*)::integer AS items,
    (count(*) FILTER (WHERE state = 'succeeded'))::integer AS succeeded,
    (count(*) FILTER (WHERE state = 'failed'))::integer AS failed,
    (count(*) FILTER (WHERE state = 'cancelled'))::integer AS cancelled,
    (count(*) FILTER (WHERE state = 'expired'))::integer AS expired,
    (count(*) FILTER (WHERE state IN ('succeeded', 'failed', 'cancelled', 'expired')))::integer AS ended,
    -- The address, or the key in the store where the store has no addresses.
    coalesce(
      array_agg(coalesce(images -> 0 ->> 'url', images -> 0 ->> 'key') ORDER BY item) FILTER (WHERE state = 'succeeded'),
      '{}'
    ) AS result_image_urls,
    min(accepted_at) AS accepted_at,
    max(finished_at) AS finished_at
  FROM pixmill_items
  GROUP BY 1, 2, 3
) AS seen
LEFT JOIN pixmill_batches AS batches
  ON seen.kind = 'batch' AND batches.tenant = seen.tenant AND batches.batch = seen.id;
