package postgres

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/quashdev/quash/internal/issuer"
)

// reader implements [issuer.Reader] in one transaction, which begins with its
// first read.
type reader struct {
	s       *Store
	c       *conn
	l       *ledger
	before  seen // what the store remembered when the transaction was made
	start   []string
	began   bool
	writes  bool
	issuing bool
	issue   *tx // set in Issue: accounts are locked as they are read
	update  *tx // set in Update: sessions are held as they are read
	// When the head, and the time, was asked for, and how long that took.
	asked time.Time
	took  time.Duration
}

// The statements that a transaction begins with, before it looks at the head.
// Those of an issue take no snapshot: it comes after the gate.
var (
	beginView = []string{
		`BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`,
		fmt.Sprintf(`SET LOCAL idle_in_transaction_session_timeout = %d`, viewIdleTimeout.Milliseconds()),
	}
	beginIssue = []string{
		`BEGIN ISOLATION LEVEL REPEATABLE READ`,
		`LOCK TABLE quash.gate IN ACCESS SHARE MODE`,
	}
	beginUpdate = []string{
		`BEGIN ISOLATION LEVEL READ COMMITTED`,
	}
)

const closeGate = `LOCK TABLE quash.gate IN ACCESS EXCLUSIVE MODE`

// begin begins the transaction, with what waits to be asked.
func (r *reader) begin() error {
	if r.began || r.c.rehearsing {
		return r.c.failed
	}
	return r.open()
}

// open sends the transaction's beginning and what is asked with it.
func (r *reader) open(asked ...statement) error {
	switch {
	case r.c.rehearsing:
		return errRehearsal
	case r.c.failed != nil:
		return r.c.failed
	}
	r.began = true
	query := viewHead
	if r.writes {
		r.c.patience = shortTripTimeout
		if query = updateHead; r.issuing {
			query = issueHead
		}
	}
	start := r.start
	if r.writes {
		start = slices.Concat(start[:1], r.s.bounds, start[1:])
	}
	list := make([]statement, 0, len(start)+1+len(asked))
	for _, text := range start {
		list = append(list, statement{query: text})
	}
	list = append(list, statement{query: query, args: []any{int64(r.before.mark.Position)}, take: func(row pgx.Rows) error {
		return r.l.scan(row, r.before)
	}})
	r.asked = time.Now()
	if err := r.c.ask(append(list, asked...)...); err != nil {
		r.c.failed = err
		return err
	}
	r.took = time.Since(r.asked)
	if r.issuing && r.l.forked {
		r.s.fork(r.before)
		r.c.failed = issuer.ErrForked
	}
	return r.c.failed
}

// each calls fn for each row of a query.
func (r *reader) each(fn func(pgx.Rows) error, query string, args ...any) error {
	if r.began || !holdable(args) {
		return r.c.each(fn, query, args...)
	}
	return r.open(statement{query: query, args: args, take: fn})
}

// ask sends statements, and the transaction's beginning before the first.
func (r *reader) ask(list ...statement) error {
	if r.began {
		return r.c.ask(list...)
	}
	return r.open(list...)
}

// unit is one database transaction that may write: an issue, or a group of
// updates.
type unit struct {
	reader
	ledger
	wrote bool
	sent  counts // of the ledger's lists, what was queued

	// In updates: whether it has locked accounts, and sessions of theirs; the
	// accounts that it has written, so that no session of theirs is opened
	// beside it, by the trip after which that is so; and the sessions that it has
	// read, as it leaves them, nil where they have ended.
	locked   bool
	written  map[string]uint64
	sessions map[string]*issuer.Session
	gated    bool
	// What a rehearsal asked for: sessions, and the gate.
	wanted    []string
	wantsGate bool

	accounts map[string]issuer.Account // in issues: read and locked

	tx      tx      // of the function that runs
	guessed *ledger // what an update that reads nothing rests on, instead of a reading
}

type counts struct{ puts, ended, records, names, audits int }

func (s *Store) newUnit(c *conn, issuing bool) *unit {
	u := &unit{tx: tx{overlay: map[string]*issuer.Session{}}, written: map[string]uint64{}, sessions: map[string]*issuer.Session{}, accounts: map[string]issuer.Account{}}
	u.reader = reader{s: s, c: c, l: &u.ledger, before: s.remembered(), start: beginUpdate, writes: true, issuing: issuing}
	if issuing {
		u.start = beginIssue
	}
	c.emit = u.emit
	return u
}

// commit ends the transaction. When that fails ambiguously it finds out what
// became of it; the answer is nil, errAgain or ErrUnknown among others.
func (u *unit) commit() error {
	if u.c.failed != nil {
		return u.c.failed
	}
	if u.guessed != nil {
		u.beginGuessed()
		u.emit()
	} else {
		u.emit()
		u.save()
	}
	u.queue(commit)
	u.c.patience = shortTripTimeout
	err := u.s.commit(u.c)
	if err == nil && !u.s.doubted(u.c) {
		return nil
	}
	if err != nil && (refused(err) || errors.Is(err, errRolledBack) || pgconn.SafeToRetry(err)) {
		return err
	}
	return u.s.outcome(u, err)
}

// publish makes known to this store what a commit left.
func (u *unit) publish() {
	if u.l.recast && u.l.loaded != nil && !u.issuing && !u.rekeyed {
		l := u.l.log
		u.s.catalogs.Store(&catalog{version: u.l.version, id: l.ID, secret: l.HashSecret, claims: l.Claims, issuers: l.Issuers, keys: u.l.loaded.keys})
	}
	u.s.remember(u.l.log)
	if u.l.moved || u.l.recast {
		u.s.tell()
	}
}

// tx implements [issuer.Tx] for one function of a unit.
type tx struct {
	*reader
	u           *unit
	first, last uint64 // positions appended
	answered    uint64 // last, when requests were taken or answered
	lifted      bool   // an epoch was begun

	// What tells whether the function can be undone without the transaction.
	checkpoint ledger
	counted    counts
	queued     int                        // statements that waited when it began
	trips      uint64                     // made when it began
	dirtied    uint64                     // 1 + trips made when it first wrote; 0: it has not
	holds      []string                   // accounts that it holds
	overlay    map[string]*issuer.Session // as the function has read or left them, nil where they have ended
	afresh     bool                       // what is known of sessions comes from the overlay alone
}

// newTx returns the transaction for the next function. That of the function
// before is the same value, and must not be used any more.
func (u *unit) newTx() *tx {
	t := &u.tx
	clear(t.overlay)
	*t = tx{
		reader: &u.reader, u: u, checkpoint: u.ledger, counted: u.sent, queued: len(u.c.queue), trips: u.c.trips, overlay: t.overlay,
	}
	if u.issuing {
		u.issue = t
	} else {
		u.update = t
	}
	return t
}

// dirty notes that the function is about to write.
func (t *tx) dirty() error {
	if err := t.begin(); err != nil {
		return err
	}
	if t.dirtied == 0 {
		t.dirtied = 1 + t.c.trips
	}
	return nil
}

// sent reports whether the server has anything that the function wrote.
func (t *tx) sent() bool { return t.dirtied > 0 && t.c.trips >= t.dirtied }

// undo takes back what the function wrote, nothing of which was sent.
func (t *tx) undo() {
	u := t.u
	u.ledger = t.checkpoint
	if u.c.trips == t.trips {
		u.sent, u.c.queue = t.counted, u.c.queue[:t.queued]
	} else {
		u.c.queue = u.c.queue[:0]
		u.sent = counts{
			puts: min(u.sent.puts, len(u.puts)), ended: min(u.sent.ended, len(u.ended)), records: min(u.sent.records, len(u.records)),
			names: min(u.sent.names, len(u.names)), audits: min(u.sent.audits, len(u.audits)),
		}
	}
	for _, subject := range t.holds {
		if u.written[subject] > u.c.trips {
			delete(u.written, subject)
		}
	}
}

// keep lets what the function did stand for those after it.
func (t *tx) keep() {
	if t.afresh {
		clear(t.u.sessions)
	}
	maps.Copy(t.u.sessions, t.overlay)
	t.u.wrote = t.u.wrote || t.dirtied > 0
}

// write queues a statement that answers nothing.
func (t *tx) write(query string, args ...any) error {
	if err := t.dirty(); err != nil {
		return err
	}
	return t.c.write(query, args...)
}

// exec sends a statement and returns how many rows it changed.
func (t *tx) exec(query string, args ...any) (int, error) {
	if err := t.dirty(); err != nil {
		return 0, err
	}
	return t.c.exec(query, args...)
}

// deleteOne is for statements that delete one row.
func (t *tx) deleteOne(query, id string) error {
	n, err := t.exec(query, id)
	if err == nil && n == 0 {
		err = issuer.ErrNotFound
	}
	return err
}

// errGate says that a function needs the gate, which must come before the
// accounts that its transaction has written already.
var errGate = errors.New("the gate must be closed first")

// hold returns what must be sent before the sessions that match are looked at,
// so that none of them changes and none is opened beside this transaction. It
// writes the accounts' rows: an issue that read one of them has committed then,
// or starts again. A lock would let it go on with what it read.
func (t *tx) hold(m issuer.Match) ([]statement, error) {
	u := t.u
	switch {
	case u.gated:
		return nil, nil
	case m.Claim == "sub":
		if u.c.rehearsing {
			return nil, errRehearsal
		}
		if _, held := u.written[m.Value]; held {
			return nil, nil
		}
		u.written[m.Value] = u.c.trips + 1
		t.holds = append(t.holds, m.Value)
		return []statement{{query: `UPDATE quash.account SET touched = touched + 1 WHERE subject = $1`, args: []any{m.Value}}}, nil
	case u.locked || len(u.written) > 0 || u.c.rehearsing:
		u.wantsGate = true
		return nil, errGate
	}
	u.gated = true
	return []statement{{query: closeGate}}, nil
}
