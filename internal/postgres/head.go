package postgres

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
)

// digestAt is the digest that the log has at the position $1, NULL where it has
// none, or where no commit ever left it.
const digestAt = `CASE $1::bigint WHEN head THEN digest WHEN pruned THEN pruned_digest ELSE coalesce(
	(SELECT r.digest FROM quash.revocation r WHERE r.last = $1),
	(SELECT r.digest FROM quash.revocation_archive r WHERE r.last = $1),
	(SELECT e.begin_digest FROM quash.epoch e WHERE e.begin = $1)) END`

// The statements that read the head. Every transaction begins with one of them,
// whose parameter is the position of the remembered mark. Those of transactions
// that may write also note what tells later what became of them, and that of
// updates locks the head: the row and the time are those behind the lock,
// and whether there are requests is as old as the wait for it.
const (
	selectHead = `
		SELECT clock_timestamp(), epoch, head, digest, pruned, pruned_digest, max_lifetime, catalog,
			EXISTS (SELECT FROM quash.outbox), pg_is_in_recovery(), ` + digestAt
	viewHead   = selectHead + `, NULL::text, NULL::text FROM quash.meta`
	writeHead  = selectHead + `, pg_current_xact_id()::text, (SELECT id::text FROM quash.life) FROM `
	issueHead  = writeHead + `quash.meta`
	updateHead = `WITH locked AS (SELECT * FROM quash.meta FOR NO KEY UPDATE)` + writeHead + `locked`
)

// ledger is what a transaction knows of the log without reading it again, and
// what it has added. Its slices only grow, so a copy is a checkpoint.
type ledger struct {
	now       time.Time
	log       issuer.Log // its ID, HashSecret, Claims and Issuers only where catalog is loaded
	version   int64      // of the catalog
	requested bool
	loaded    *catalog // nil until it is needed
	forked    bool

	xid, life string // of a transaction that may write

	records []issuer.Revocation
	names   []string // claims that the log did not name before
	audits  []issuer.AuditEntry
	puts    []issuer.Session // of sessions that are there, newer versions
	ended   []string         // ids of sessions
	// What the transaction changed of the row meta, the first being news for
	// Changed, the second making the catalog another.
	moved, recast bool
	// Another node may be waiting for the row of this one.
	rowWritten bool
	rekeyed    bool // signing keys are not as the catalog has them
}

// catalog is what the log says of itself beside its head. It changes seldom,
// so it is kept by its version, which is random: one version, one content.
type catalog struct {
	version int64
	id      string
	secret  []byte
	claims  []string
	issuers []issuer.Foreign
	keys    []issuer.SigningKey
}

// seen is the latest mark that this store has read or written.
type seen struct {
	epoch  uint64
	mark   feed.Mark
	forked bool // the database contradicted it
}

// scan takes the row of one of the statements above.
func (l *ledger) scan(row pgx.Rows, before seen) error {
	var head, pruned int64
	var digest, prunedDigest, remembered []byte
	var standby bool
	var xid, life *string
	err := row.Scan(
		&l.now, &l.log.Epoch, &head, &digest, &pruned, &prunedDigest, &l.log.MaxLifetime, &l.version,
		&l.requested, &standby, &remembered, &xid, &life,
	)
	if err != nil {
		return fmt.Errorf("read the log's head: %w", err)
	}
	if standby {
		return errStandby
	}
	l.now = l.now.UTC().Truncate(time.Millisecond)
	l.log.Head, l.log.Pruned = mark(head, digest), mark(pruned, prunedDigest)
	if xid != nil {
		l.xid = *xid
	}
	if life != nil {
		l.life = *life
	}
	l.forked = before.contradicts(l.log, remembered)
	return nil
}

// contradicts reports whether a log is not the continuation of what was seen.
func (s seen) contradicts(l issuer.Log, remembered []byte) bool {
	switch {
	case l.Epoch != s.epoch:
		return l.Epoch < s.epoch
	case s.forked:
		return true
	case s.mark.Position == 0:
		return false
	}
	return l.Head.Position < s.mark.Position || mark(int64(s.mark.Position), remembered) != s.mark || remembered == nil
}

// remember notes what a transaction has read, or written with success.
func (s *Store) remember(l issuer.Log) {
	s.seenLock.Lock()
	defer s.seenLock.Unlock()
	if l.Epoch > s.seen.epoch || l.Epoch == s.seen.epoch && !s.seen.forked && l.Head.Position > s.seen.mark.Position {
		s.seen = seen{epoch: l.Epoch, mark: l.Head}
	}
}

// fork notes that the database contradicted what was seen before.
func (s *Store) fork(before seen) {
	s.seenLock.Lock()
	defer s.seenLock.Unlock()
	if s.seen.epoch == before.epoch && !s.seen.forked {
		s.seen.forked = true
		s.log.Error("the database lost what was read from it: it was restored, or failed over to a copy that lagged; nothing is issued until a new epoch has begun",
			"epoch", before.epoch, "position", before.mark.Position)
	}
}

func (s *Store) remembered() seen {
	s.seenLock.Lock()
	defer s.seenLock.Unlock()
	return s.seen
}

// catalog returns the catalog of the reader's snapshot, and completes what the
// ledger says of the log.
func (r *reader) catalog() (*catalog, error) {
	if err := r.begin(); err != nil {
		return nil, err
	}
	if r.c.rehearsing && !r.began {
		return nil, errRehearsal
	}
	if r.l.loaded == nil {
		if known := r.s.catalogs.Load(); known != nil && known.version == r.l.version && !r.l.recast {
			r.complete(known)
		} else {
			read := &catalog{version: r.l.version}
			if err := r.c.ask(read.statements()...); err != nil {
				return nil, fmt.Errorf("read what the log is: %w", err)
			}
			if !r.l.recast {
				r.s.catalogs.Store(read)
			}
			r.complete(read)
		}
	}
	return r.l.loaded, nil
}

func (r *reader) complete(c *catalog) {
	l := &r.l.log
	l.ID, l.HashSecret, l.Claims, l.Issuers, r.l.loaded = c.id, c.secret, c.claims, c.issuers, c
}

// statements read a catalog.
func (c *catalog) statements() []statement {
	return []statement{
		{query: `SELECT log_id, hash_secret FROM quash.meta`, take: func(row pgx.Rows) error { return row.Scan(&c.id, &c.secret) }},
		{query: `SELECT name FROM quash.claim_name ORDER BY name`, take: func(row pgx.Rows) error {
			name, err := text(row)
			c.claims = append(c.claims, name)
			return err
		}},
		{query: selectIssuers, take: func(row pgx.Rows) error {
			f, err := scanIssuer(row)
			c.issuers = append(c.issuers, f)
			return err
		}},
		{query: selectSigningKeys, take: func(row pgx.Rows) error {
			k, err := scanSigningKey(row)
			c.keys = append(c.keys, k)
			return err
		}},
	}
}

// Log implements [issuer.Reader].
func (r *reader) Log() (issuer.Log, error) {
	if _, err := r.catalog(); err != nil {
		return issuer.Log{}, err
	}
	l := r.l.log
	l.HashSecret, l.Claims, l.Issuers = slices.Clone(l.HashSecret), slices.Clone(l.Claims), slices.Clone(l.Issuers)
	return l, nil
}

// Now implements [issuer.Reader].
func (r *reader) Now() time.Time {
	_ = r.begin() // what fails now, fails at the end
	return r.l.now
}

// Requested implements [issuer.Reader].
func (r *reader) Requested() (bool, error) {
	if err := r.begin(); err != nil {
		return false, err
	}
	if t := r.update; t != nil && t.u.guessed != nil {
		r.c.missed = true // a guess does not know
	}
	return r.l.requested, nil
}

// emit queues what was held back: sessions that ended, records, claim names and
// audit entries, each kind in one statement.
func (u *unit) emit() {
	l := &u.ledger
	if puts := l.puts[u.sent.puts:]; len(puts) > 0 {
		u.c.queue = append(u.c.queue, putSessions(puts))
	}
	if ended := l.ended[u.sent.ended:]; len(ended) > 0 {
		u.queue(`DELETE FROM quash.session WHERE id = ANY($1)`, slices.Clone(ended))
	}
	if records := l.records[u.sent.records:]; len(records) > 0 {
		u.c.queue = append(u.c.queue, insertBatches("revocation", batches(records)))
	}
	if names := l.names[u.sent.names:]; len(names) > 0 {
		u.queue(`INSERT INTO quash.claim_name SELECT unnest($1::text[])`, slices.Clone(names))
	}
	if audits := l.audits[u.sent.audits:]; len(audits) > 0 {
		u.queue(insertAudits, auditColumns(audits)...)
	}
	u.sent = counts{puts: len(l.puts), ended: len(l.ended), records: len(l.records), names: len(l.names), audits: len(l.audits)}
}

// queue is for statements whose arguments have been checked.
func (u *unit) queue(query string, args ...any) {
	u.c.queue = append(u.c.queue, statement{query: query, args: args})
}

// save queues the row meta as the transaction leaves it.
func (u *unit) save() {
	l := &u.ledger
	if l.life == "" {
		u.queue(`INSERT INTO quash.life VALUES (1, gen_random_uuid()) ON CONFLICT DO NOTHING`)
	}
	if l.recast {
		l.version = rand.Int64()
	}
	switch {
	case u.issuing && l.recast: // it holds no lock of the head: what others wrote must stay
		u.queue(`UPDATE quash.meta SET catalog = $1`, l.version)
	case l.recast:
		u.queue(`UPDATE quash.meta SET log_id = $1, epoch = $2, hash_secret = $3, catalog = $4`,
			l.log.ID, int64(l.log.Epoch), l.log.HashSecret, l.version)
		fallthrough
	case l.moved:
		u.queue(`UPDATE quash.meta SET head = $1, digest = $2, pruned = $3, pruned_digest = $4, max_lifetime = $5 RETURNING pg_notify('`+channel+`', $6)`,
			int64(l.log.Head.Position), l.log.Head.Digest[:], int64(l.log.Pruned.Position), l.log.Pruned.Digest[:], int64(l.log.MaxLifetime), u.s.id)
		return
	}
	if l.recast || l.rowWritten {
		u.queue(`SELECT pg_notify('`+channel+`', $1)`, u.s.id)
	}
}

var errIssuing = errors.New("this transaction issues a token; do it in an update of its own")
