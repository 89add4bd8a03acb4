package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/quashdev/quash/internal/issuer"
)

// page is how many rows are read at once, and written in one transaction.
const page = 1000

// Progress is told what has been done: how many rows so far of one kind.
type Progress func(what string, rows int)

// Write writes what a store holds at one moment to w. It holds a page of rows
// at most.
func Write(ctx context.Context, s issuer.Store, w io.Writer, told Progress) error {
	if told == nil {
		told = func(string, int) {}
	}
	began := false
	err := s.View(ctx, func(rd issuer.Reader) error {
		if began {
			return errors.New("the store broke off the reading; begin again")
		}
		began = true
		d := &dumper{ctx: ctx, rd: rd, out: newWriter(w), told: told}
		return d.dump()
	})
	if err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	return nil
}

// dumper writes what a reader shows.
type dumper struct {
	ctx  context.Context
	rd   issuer.Reader
	out  *writer
	told Progress
}

func (d *dumper) dump() error {
	if err := d.out.write(line{Header: &header{format, version, d.rd.Now()}}); err != nil {
		return err
	}
	for _, part := range []func() error{d.accounts, d.sessions, d.keys, d.clients, d.audit, d.evidence, d.signingKeys, d.log, d.revocations} {
		if err := part(); err != nil {
			return err
		}
	}
	return d.out.end()
}

// pages writes rows page by page. Next returns those after the last of a page.
func pages[T any](d *dumper, what string, next func(last *T) ([]T, error), write func(*T) error) error {
	var last *T
	for rows := 0; ; {
		list, err := next(last)
		if err == nil {
			err = d.ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", what, err)
		}
		for i := range list {
			if err := write(&list[i]); err != nil {
				return err
			}
		}
		rows += len(list)
		if d.told(what, rows); len(list) == 0 {
			return nil
		}
		last = &list[len(list)-1]
	}
}

func (d *dumper) accounts() error {
	return pages(d, "accounts", func(last *issuer.Account) ([]issuer.Account, error) {
		after := ""
		if last != nil {
			after = last.Subject
		}
		return d.rd.Accounts(after, page)
	}, func(a *issuer.Account) error {
		return d.out.write(line{Account: &account{*a, a.Claims}})
	})
}

func (d *dumper) sessions() error {
	return pages(d, "sessions", func(last *issuer.Session) ([]issuer.Session, error) {
		after := ""
		if last != nil {
			after = last.ID
		}
		return d.rd.Sessions(issuer.Match{}, after, page)
	}, func(s *issuer.Session) error {
		return d.out.write(line{Session: &session{*s, s.Secret[:], s.RetryKey[:]}})
	})
}

func (d *dumper) keys() error {
	keys, err := d.rd.APIKeys()
	for _, k := range keys {
		err = errors.Join(err, d.out.write(line{APIKey: &apiKey{k, k.Hash[:], k.Previous[:]}}))
	}
	return err
}

func (d *dumper) clients() error {
	clients, err := d.rd.Clients()
	for _, c := range clients {
		err = errors.Join(err, d.out.write(line{Client: &client{c, c.Hash[:], c.Previous[:], c.Keys}}))
	}
	return err
}

// audit writes the audit, oldest first. It is read in steps of ids, because it
// can be read backwards only.
func (d *dumper) audit() error {
	newest, err := d.rd.Audit(issuer.AuditQuery{Limit: 1})
	if err != nil || len(newest) == 0 {
		return err
	}
	rows := 0
	for first := uint64(1); first <= newest[0].ID; first += page {
		list, err := d.rd.Audit(issuer.AuditQuery{Before: first + page, Limit: page})
		if err == nil {
			err = d.ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("read the audit: %w", err)
		}
		for _, e := range slices.Backward(list) {
			if e.ID < first {
				continue
			}
			if err := d.out.write(line{Audit: &auditEntry{e, e.Detail}}); err != nil {
				return err
			}
			rows++
		}
		d.told("audit entries", rows)
	}
	return nil
}

// evidence writes what is known of how revocations were confirmed. A store
// finds it by the positions of the records.
func (d *dumper) evidence() error {
	written := map[string]uint64{}
	verifiers := map[string]map[uint32]bool{}
	one := func(c issuer.Confirmation) error {
		if written[c.Node] >= c.Last {
			return nil
		}
		written[c.Node] = c.Last
		if verifiers[c.Node] == nil {
			verifiers[c.Node] = map[uint32]bool{}
		}
		if err := d.verifiers(c, verifiers[c.Node]); err != nil {
			return err
		}
		return d.out.write(line{Confirmation: &c})
	}
	return d.history("confirmations", func(r *issuer.Revocation) error {
		found, err := d.rd.Confirmations(r.Position)
		if err != nil {
			return fmt.Errorf("read the confirmations of %d: %w", r.Position, err)
		}
		for _, c := range found {
			if err := one(c); err != nil {
				return err
			}
		}
		return nil
	})
}

// verifiers writes those that the outcomes of a confirmation name, but for
// those that are known.
func (d *dumper) verifiers(c issuer.Confirmation, known map[uint32]bool) error {
	var numbers []uint32
	for _, o := range c.Outcomes {
		if !known[o.Verifier] {
			known[o.Verifier] = true
			numbers = append(numbers, o.Verifier)
		}
	}
	found, err := d.rd.Verifiers(c.Node, numbers)
	for _, v := range found {
		err = errors.Join(err, d.out.write(line{Verifier: &v}))
	}
	return err
}

func (d *dumper) signingKeys() error {
	keys, err := d.rd.SigningKeys()
	for _, k := range keys {
		err = errors.Join(err, d.out.write(line{SigningKey: &signingKey{k, k.Public}}))
	}
	return err
}

func (d *dumper) log() error {
	epochs, err := d.rd.Epochs()
	for _, e := range epochs {
		err = errors.Join(err, d.out.write(line{Epoch: &epoch{e, markOf(e.Before), markOf(e.Begin)}}))
	}
	if err != nil {
		return err
	}
	l, err := d.rd.Log()
	if err != nil {
		return err
	}
	return d.out.write(line{Log: &log{l, markOf(l.Head), markOf(l.Pruned)}})
}

func (d *dumper) revocations() error {
	return d.history("revocations", func(r *issuer.Revocation) error {
		return d.out.write(line{Revocation: &revocation{*r, r.Key[:], r.Digest[:]}})
	})
}

// history calls fn with every record of the log.
func (d *dumper) history(what string, fn func(*issuer.Revocation) error) error {
	return pages(d, what, func(last *issuer.Revocation) ([]issuer.Revocation, error) {
		after := uint64(0)
		if last != nil {
			after = last.Position
		}
		return d.rd.History(after, page)
	}, fn)
}
