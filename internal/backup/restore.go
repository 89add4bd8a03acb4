package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/quashdev/quash/internal/issuer"
)

// Options say how to restore. The zero value is the safe default.
type Options struct {
	// KeepSessions restores the sessions too, so that nobody need log in again.
	// One that has ended since the backup then lives again.
	KeepSessions bool
	Progress     Progress
}

// Summary is what was restored.
type Summary struct {
	Taken    time.Time `json:"taken"` // when the backup was made
	Accounts int       `json:"accounts"`
	Sessions int       `json:"sessions"`
	Records  uint64    `json:"records"` // of the log
	Epoch    uint64    `json:"epoch"`   // that has begun
}

// ErrNotEmpty says that a store holds something already.
var ErrNotEmpty = errors.New("the store is not empty: restore into one that no server was ever started on")

// Restore fills an empty store from a file, which open opens, several times.
// It reads the whole file before it writes anything. A restore that breaks off
// leaves a store that [issuer.Issuer.Prepare] refuses, and so does Restore. What
// it leaves is not complete before Prepare either, but no less safe.
func Restore(ctx context.Context, s issuer.Store, open func() (io.ReadCloser, error), o Options) (Summary, error) {
	if o.Progress == nil {
		o.Progress = func(string, int) {}
	}
	r := &restorer{ctx: ctx, store: s, open: open, options: o}
	if err := r.check(); err != nil {
		return Summary{}, fmt.Errorf("restore: nothing was written: %w", err)
	}
	if err := r.rows(); err != nil {
		return Summary{}, fmt.Errorf("restore: %w", err)
	}
	if err := r.finish(); err != nil {
		return Summary{}, fmt.Errorf("restore: %w", err)
	}
	return r.done, nil
}

type restorer struct {
	ctx     context.Context
	store   issuer.Store
	open    func() (io.ReadCloser, error)
	options Options

	whole  content
	began  bool // something was written
	done   Summary
	counts map[string]int
}

// content is what of a file is held in memory.
type content struct {
	keys   []issuer.SigningKey
	epochs []issuer.Epoch
	log    issuer.Log
}

// lines calls yield with every line after the header and before the end.
func (r *restorer) lines(yield func(line) error) error {
	f, err := r.open()
	if err != nil {
		return err
	}
	defer f.Close()
	in, h, err := newReader(f)
	if err != nil {
		return err
	}
	r.done.Taken = h.Time
	for {
		l, err := in.read()
		if err == nil {
			err = r.ctx.Err()
		}
		if err != nil || l.End != nil {
			return err
		}
		if h.Version == 1 && l.APIKey != nil {
			l.APIKey.upgrade()
		}
		if err := yield(l); err != nil {
			return err
		}
	}
}

// check reads the whole file: its digest, that every row can be read, and that
// the log is whole.
func (r *restorer) check() error {
	var chain *issuer.Chain
	var broken *issuer.LogBreak
	read := 0
	err := r.lines(func(l line) error {
		if read++; read%page == 0 {
			r.options.Progress("lines checked", read)
		}
		if l.Revocation == nil {
			if chain != nil {
				return errFormat // nothing follows the log but its records
			}
			if err := r.note(l); err != nil || l.Log == nil {
				return err
			}
			chain = &issuer.Chain{Secret: r.whole.log.HashSecret, Epochs: r.whole.epochs}
			return nil
		}
		rev, err := l.Revocation.value()
		if err == nil && chain == nil {
			err = errFormat
		}
		if err == nil && broken == nil {
			broken = chain.Next(rev)
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case chain == nil:
		return errFormat
	case broken == nil:
		broken = chain.End(r.whole.log)
	}
	if broken != nil {
		return fmt.Errorf("the log in the backup is not whole, %v: it was changed or damaged before the backup was made; use an older one", broken)
	}
	r.done.Records = chain.Checked
	return nil
}

// note holds what is written at last, and checks that the rest can be read.
func (r *restorer) note(l line) (err error) {
	switch {
	case l.SigningKey != nil:
		r.whole.keys = append(r.whole.keys, l.SigningKey.value())
	case l.Epoch != nil:
		e, err := l.Epoch.value()
		r.whole.epochs = append(r.whole.epochs, e)
		return err
	case l.Log != nil:
		if r.whole.log, err = l.Log.value(); err == nil && r.whole.log.MaxLifetime == 0 {
			err = errors.New("it is of a store that no server was ever started on")
		}
	default:
		_, err = l.row()
	}
	return err
}

// row returns what writes the row of a line, nil where it is none.
func (l *line) row() (func(issuer.Tx) error, error) {
	switch {
	case l.Account != nil:
		v := l.Account.value()
		return func(tx issuer.Tx) error { return tx.PutAccount(v) }, nil
	case l.Session != nil:
		v, err := l.Session.value()
		return func(tx issuer.Tx) error { return tx.PutSession(v) }, err
	case l.APIKey != nil:
		v, err := l.APIKey.value()
		return func(tx issuer.Tx) error { return tx.PutAPIKey(v) }, err
	case l.Client != nil:
		v, err := l.Client.value()
		return func(tx issuer.Tx) error { return tx.PutClient(v) }, err
	case l.Audit != nil:
		v := l.Audit.value()
		return func(tx issuer.Tx) error { return tx.AppendAudit(v) }, nil
	case l.Verifier != nil:
		return func(tx issuer.Tx) error { return tx.PutVerifier(*l.Verifier) }, nil
	case l.Confirmation != nil:
		return func(tx issuer.Tx) error { return tx.PutConfirmation(*l.Confirmation) }, nil
	}
	return nil, errFormat
}

// kind is what progress calls the row of a line.
func (l *line) kind() string {
	switch {
	case l.Account != nil:
		return "accounts"
	case l.Session != nil:
		return "sessions"
	case l.APIKey != nil:
		return "keys"
	case l.Client != nil:
		return "clients"
	case l.Audit != nil:
		return "audit entries"
	}
	return "confirmations"
}

// errLog ends the reading of the rows where the log begins.
var errLog = errors.New("the log begins here")

// rows writes all but the log, page by page.
func (r *restorer) rows() error {
	r.counts = map[string]int{}
	var batch []func(issuer.Tx) error
	kind := ""
	err := r.lines(func(l line) error {
		if l.SigningKey != nil || l.Epoch != nil || l.Log != nil {
			return errLog
		}
		if l.Session != nil && !r.options.KeepSessions {
			return nil
		}
		if kind != l.kind() || len(batch) == page {
			if err := r.write(kind, batch); err != nil {
				return err
			}
			kind, batch = l.kind(), batch[:0]
		}
		put, err := l.row()
		batch = append(batch, put)
		return err
	})
	switch {
	case err == nil:
		return errFormat // it has no log
	case !errors.Is(err, errLog):
		return err
	}
	return r.write(kind, batch)
}

// write writes a batch in one transaction. The first finds the store empty, so
// that no server can have begun to use it: from then on none does.
func (r *restorer) write(kind string, batch []func(issuer.Tx) error) error {
	if len(batch) == 0 {
		return nil
	}
	_, err := r.store.Update(r.ctx, func(tx issuer.Tx) error {
		if !r.began {
			if err := empty(tx); err != nil {
				return err
			}
		}
		for _, put := range batch {
			if err := put(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", kind, err)
	}
	r.began = true
	r.counts[kind] += len(batch)
	r.options.Progress(kind, r.counts[kind])
	return nil
}

func empty(tx issuer.Tx) error {
	filled, err := issuer.Filled(tx)
	if err == nil && filled {
		err = ErrNotEmpty
	}
	return err
}

// finish writes the log and begins the epoch, in one transaction.
func (r *restorer) finish() error {
	_, err := r.store.Update(r.ctx, func(tx issuer.Tx) error {
		l, err := tx.Log()
		if err == nil && l.MaxLifetime != 0 {
			err = ErrNotEmpty
		}
		if err != nil {
			return err
		}
		for _, k := range r.whole.keys {
			if err := tx.PutSigningKey(k); err != nil {
				return err
			}
		}
		if err := tx.Restore(r.whole.log, r.whole.epochs, r.records()); err != nil {
			return err
		}
		e, err := issuer.StartEpoch(tx, "restored from the backup of "+r.done.Taken.UTC().Format(time.RFC3339), r.options.KeepSessions)
		r.done.Epoch = e.Number
		return err
	})
	if err != nil {
		return fmt.Errorf("write the log: %w", err)
	}
	r.done.Accounts, r.done.Sessions = r.counts["accounts"], r.counts["sessions"]
	return nil
}

// records reads the records of the log from the file, anew each time.
func (r *restorer) records() iter.Seq2[issuer.Revocation, error] {
	return func(yield func(issuer.Revocation, error) bool) {
		errStop, read := errors.New("stop"), 0
		err := r.lines(func(l line) error {
			if l.Revocation == nil {
				return nil
			}
			rev, err := l.Revocation.value()
			if err != nil {
				return err
			}
			if read++; read%page == 0 {
				r.options.Progress("revocations", read)
			}
			if !yield(rev, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(issuer.Revocation{}, err)
		}
	}
}
