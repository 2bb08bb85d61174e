-- The books of one node. Every BLOB named `sealed` is AES-256-GCM under the data key that the TPM releases.
-- The store's own row: its epoch, sealed, so that another data key and an older copy are noticed when it is opened.
CREATE TABLE IF NOT EXISTS store (
    one INTEGER PRIMARY KEY CHECK (one = 1), sealed BLOB NOT NULL
) STRICT;
-- Empty. A store that refused to write is tried with something large here.
CREATE TABLE IF NOT EXISTS trial (filler BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS kem_key (
    key_id TEXT PRIMARY KEY, purpose TEXT NOT NULL, suite TEXT NOT NULL,
    public BLOB NOT NULL, sealed BLOB NOT NULL, expires_at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS link_key (
    position INTEGER PRIMARY KEY, key_id TEXT NOT NULL UNIQUE, link TEXT NOT NULL, direction TEXT NOT NULL,
    ready INTEGER NOT NULL, sealed BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS link_key_stock ON link_key (link, direction, ready, position);
CREATE TABLE IF NOT EXISTS pool_block (
    position INTEGER PRIMARY KEY, key_id TEXT NOT NULL UNIQUE, peer TEXT NOT NULL, direction TEXT NOT NULL,
    ready INTEGER NOT NULL, grade TEXT NOT NULL, sealed BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS pool_block_stock ON pool_block (peer, direction, ready, position);
CREATE TABLE IF NOT EXISTS stock (
    kind TEXT NOT NULL, owner TEXT NOT NULL, direction TEXT NOT NULL, ready INTEGER NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (kind, owner, direction, ready)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS transfer (
    transfer_id TEXT PRIMARY KEY, sender TEXT NOT NULL, expires_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS transfer_expiry ON transfer (expires_at);
CREATE TABLE IF NOT EXISTS parcel (
    parcel_id TEXT PRIMARY KEY, expires_at REAL NOT NULL, sealed BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS parcel_expiry ON parcel (expires_at);
CREATE TABLE IF NOT EXISTS parcel_key (
    key_id TEXT PRIMARY KEY, parcel_id TEXT NOT NULL REFERENCES parcel ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS parcel_key_parcel ON parcel_key (parcel_id);
CREATE TABLE IF NOT EXISTS record (
    key_id TEXT PRIMARY KEY, master_sae TEXT NOT NULL, slave_saes TEXT NOT NULL, size_bits INTEGER NOT NULL,
    grade TEXT NOT NULL, path TEXT NOT NULL, state TEXT NOT NULL, expires_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS record_expiry ON record (expires_at);
-- Of keys that ended here; those that this node sent elsewhere are not in it.
CREATE INDEX IF NOT EXISTS record_parties ON record (master_sae, key_id)
    WHERE state IN ('deposited', 'delivered', 'voided');
-- Keys that were voided before they came: they have no slaves.
CREATE INDEX IF NOT EXISTS record_strangers ON record (expires_at) WHERE slave_saes = '[]';
CREATE TABLE IF NOT EXISTS deposit (
    key_id TEXT NOT NULL, slave_sae TEXT NOT NULL, sealed BLOB NOT NULL,
    PRIMARY KEY (key_id, slave_sae)
) STRICT, WITHOUT ROWID;
-- What passed between this node and foreign KMSs. `sealed` = a digest of the key, empty for those that were sent.
CREATE TABLE IF NOT EXISTS foreign_key (
    kms TEXT NOT NULL, key_id TEXT NOT NULL, direction TEXT NOT NULL, initiator_sae TEXT NOT NULL,
    target_saes TEXT NOT NULL, sealed BLOB NOT NULL, expires_at REAL NOT NULL, outcome TEXT, told INTEGER NOT NULL,
    PRIMARY KEY (kms, key_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS foreign_key_expiry ON foreign_key (expires_at);
CREATE INDEX IF NOT EXISTS foreign_key_untold ON foreign_key (kms, key_id) WHERE told = 0 AND outcome IS NOT NULL;
CREATE TRIGGER IF NOT EXISTS foreign_key_in AFTER INSERT ON foreign_key BEGIN
    INSERT INTO stock VALUES ('foreign', NEW.kms, 'in', 1, 1) ON CONFLICT DO UPDATE SET number = number + 1;
END;
CREATE TRIGGER IF NOT EXISTS foreign_key_out AFTER DELETE ON foreign_key BEGIN
    UPDATE stock SET number = number - 1 WHERE kind = 'foreign' AND owner = OLD.kms AND direction = 'in' AND ready = 1;
END;
CREATE TRIGGER IF NOT EXISTS link_key_in AFTER INSERT ON link_key BEGIN
    INSERT INTO stock VALUES ('link', NEW.link, NEW.direction, NEW.ready, 1)
    ON CONFLICT DO UPDATE SET number = number + 1;
END;
CREATE TRIGGER IF NOT EXISTS link_key_out AFTER DELETE ON link_key BEGIN
    UPDATE stock SET number = number - 1
    WHERE kind = 'link' AND owner = OLD.link AND direction = OLD.direction AND ready = OLD.ready;
END;
CREATE TRIGGER IF NOT EXISTS link_key_ready AFTER UPDATE OF ready ON link_key WHEN OLD.ready <> NEW.ready BEGIN
    UPDATE stock SET number = number - 1
    WHERE kind = 'link' AND owner = OLD.link AND direction = OLD.direction AND ready = OLD.ready;
    INSERT INTO stock VALUES ('link', NEW.link, NEW.direction, NEW.ready, 1)
    ON CONFLICT DO UPDATE SET number = number + 1;
END;
CREATE TRIGGER IF NOT EXISTS pool_block_in AFTER INSERT ON pool_block BEGIN
    INSERT INTO stock VALUES ('pool', NEW.peer, NEW.direction, NEW.ready, 1)
    ON CONFLICT DO UPDATE SET number = number + 1;
END;
CREATE TRIGGER IF NOT EXISTS pool_block_out AFTER DELETE ON pool_block BEGIN
    UPDATE stock SET number = number - 1
    WHERE kind = 'pool' AND owner = OLD.peer AND direction = OLD.direction AND ready = OLD.ready;
END;
CREATE TRIGGER IF NOT EXISTS pool_block_ready AFTER UPDATE OF ready ON pool_block WHEN OLD.ready <> NEW.ready BEGIN
    UPDATE stock SET number = number - 1
    WHERE kind = 'pool' AND owner = OLD.peer AND direction = OLD.direction AND ready = OLD.ready;
    INSERT INTO stock VALUES ('pool', NEW.peer, NEW.direction, NEW.ready, 1)
    ON CONFLICT DO UPDATE SET number = number + 1;
END;
CREATE TRIGGER IF NOT EXISTS stranger_in AFTER INSERT ON record WHEN NEW.slave_saes = '[]' BEGIN
    INSERT INTO stock VALUES ('void', '', 'in', 1, 1) ON CONFLICT DO UPDATE SET number = number + 1;
END;
CREATE TRIGGER IF NOT EXISTS stranger_out AFTER DELETE ON record WHEN OLD.slave_saes = '[]' BEGIN
    UPDATE stock SET number = number - 1 WHERE kind = 'void' AND owner = '' AND direction = 'in' AND ready = 1;
END;
