package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

// state is everything that a Reader shows.
type state struct {
	Accounts      []issuer.Account
	Sessions      []issuer.Session
	AccountClaims []string
	Log           issuer.Log
	Epochs        []issuer.Epoch
	History       []issuer.Revocation
	Live          []revset.Record
	SigningKeys   []issuer.SigningKey
	APIKeys       []issuer.APIKey
	Clients       []issuer.Client
	Audit         []issuer.AuditEntry
	Nodes         []issuer.Node
	Verifiers     map[string][]issuer.Verifier
	Confirmations map[uint64][]issuer.Confirmation
	Matches       map[issuer.Match]matched
}

// matched is what a Reader shows for one Match.
type matched struct {
	Sessions      []string
	Count, Tokens int
	Oldest        string
}

// some is more rows than any test makes.
const some = math.MaxInt32

func dump(r issuer.Reader) (s state, err error) {
	read := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("read the state: %v", p)
		}
	}()
	s.Accounts, err = r.Accounts("", some)
	read(err)
	s.Sessions, err = r.Sessions(issuer.Match{}, "", some)
	read(err)
	s.AccountClaims, err = r.AccountClaims()
	read(err)
	s.Log, err = r.Log()
	read(err)
	s.Epochs, err = r.Epochs()
	read(err)
	s.History, err = r.History(0, some)
	read(err)
	read(r.Live(func(rec revset.Record) error {
		s.Live = append(s.Live, rec)
		return nil
	}))
	s.SigningKeys, err = r.SigningKeys()
	read(err)
	s.APIKeys, err = r.APIKeys()
	read(err)
	s.Clients, err = r.Clients()
	read(err)
	s.Audit, err = r.Audit(issuer.AuditQuery{})
	read(err)
	for i := range s.Audit { // their ids need only rise
		if i > 0 && s.Audit[i].ID >= s.Audit[i-1].ID {
			return s, fmt.Errorf("audit: entry %d comes after %d in a list of the newest first", s.Audit[i].ID, s.Audit[i-1].ID)
		}
	}
	for i := range s.Audit {
		s.Audit[i].ID = uint64(len(s.Audit) - i)
	}
	read(s.dumpEvidence(r))
	s.Matches = make(map[issuer.Match]matched)
	for m := range s.interesting() {
		s.Matches[m], err = match(r, m)
		read(err)
	}
	return s, nil
}

// nodes are the ids that the suite gives to nodes.
var nodes = []string{"n1", "n2", "n3"}

// The numbers of verifiers, and the positions with evidence, are below maxNumber
// in a dump. It asks for every fourth position: evidence of four is found.
const maxNumber = 100

func (s *state) dumpEvidence(r issuer.Reader) (err error) {
	if s.Nodes, err = r.Nodes(); err != nil {
		return err
	}
	s.Verifiers, s.Confirmations = map[string][]issuer.Verifier{}, map[uint64][]issuer.Confirmation{}
	var numbers []uint32
	for n := range maxNumber {
		numbers = append(numbers, uint32(n))
		if n%4 != 0 {
			continue
		}
		found, err := r.Confirmations(uint64(n))
		if err != nil {
			return err
		}
		if len(found) > 0 {
			s.Confirmations[uint64(n)] = found
		}
	}
	slices.Reverse(numbers)
	for _, n := range nodes {
		found, err := r.Verifiers(n, numbers)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			s.Verifiers[n] = found
		}
	}
	return nil
}

// interesting are the matches that some row answers to, and some that none does.
func (s state) interesting() map[issuer.Match]bool {
	all := map[issuer.Match]bool{
		{}: true, {Claim: "sub", Value: "nobody"}: true, {Claim: "tenant", Value: "nowhere"}: true, {Claim: "nothing", Value: "x"}: true,
	}
	for _, a := range s.Accounts {
		all[issuer.Match{Claim: "sub", Value: a.Subject}] = true
		for _, m := range a.ClaimValues() {
			all[m] = true
		}
	}
	for _, s := range s.Sessions {
		all[issuer.Match{Claim: "sid", Value: s.ID}] = true
		all[issuer.Match{Claim: "client_id", Value: s.Client}] = true
	}
	return all
}

func match(r issuer.Reader, m issuer.Match) (got matched, err error) {
	list, err := r.Sessions(m, "", some)
	if err != nil {
		return got, err
	}
	for _, s := range list {
		got.Sessions = append(got.Sessions, s.ID)
	}
	if got.Count, got.Tokens, err = r.CountSessions(m, epoch); err != nil {
		return got, err
	}
	oldest, err := r.Oldest(m)
	if errors.Is(err, issuer.ErrNotFound) {
		err = nil
	}
	got.Oldest = oldest.ID
	return got, err
}

func diff[T any](want, got T) string {
	if reflect.DeepEqual(want, got) { // many times faster
		return ""
	}
	return cmp.Diff(want, got, cmpopts.EquateEmpty())
}

// Check returns which invariant of a store, which nobody changes meanwhile, does
// not hold: the chain of the
// log from its first record to its head, the live log as that part of it
// which was not pruned, the claim names in use, the account behind every
// session, and that Tail shows what View does.
func Check(ctx context.Context, s issuer.Store) error {
	report, err := issuer.VerifyLog(ctx, s)
	if err != nil {
		return err
	}
	if report.Break != nil {
		return fmt.Errorf("the log breaks: %v", report.Break)
	}
	var got state
	err = s.View(ctx, func(r issuer.Reader) (err error) {
		if got, err = dump(r); err != nil {
			return err
		}
		return errors.Join(got.checkLog(r), got.checkSessions(r))
	})
	if err != nil {
		return err
	}
	return got.checkTail(ctx, s)
}

func (s state) checkLog(r issuer.Reader) error {
	names := make(map[string]bool)
	whole := make(map[uint64]revset.Record)
	for _, h := range s.History {
		names[h.Claim], whole[h.Position] = true, h.Record()
	}
	if want := slices.Sorted(maps.Keys(names)); !slices.Equal(s.Log.Claims, want) {
		return fmt.Errorf("claim names in use: got %q, want %q", s.Log.Claims, want)
	}
	if n := len(s.History); n != len(whole) || s.markAt(s.Log.Head.Position) != s.Log.Head {
		return fmt.Errorf("history: got %d records of %d positions, want the last of them, or of an epoch, at the head %v", n, len(whole), s.Log.Head)
	}
	if n := len(s.Epochs); s.Log.Epoch != uint64(n+1) || n > 0 && s.Epochs[n-1].Log != s.Log.ID {
		return fmt.Errorf("epochs: got %v, want the last to be %d of log %s", s.Epochs, s.Log.Epoch, s.Log.ID)
	}
	live := make(map[uint64]bool)
	for _, l := range s.Live {
		if whole[l.Position] != l {
			return fmt.Errorf("live record %d: got %+v, want %+v as in the history", l.Position, l, whole[l.Position])
		}
		live[l.Position] = true
	}
	for p := s.Log.Pruned.Position + 1; p <= s.Log.Head.Position; p++ {
		if !live[p] {
			return fmt.Errorf("record %d is above the pruned %d and not live", p, s.Log.Pruned.Position)
		}
	}
	return s.checkMarks(r)
}

func (s state) checkMarks(r issuer.Reader) error {
	list, mark, err := r.Records(s.Log.Pruned.Position, some)
	if err != nil {
		return err
	}
	if want := s.Log.Head.Position - s.Log.Pruned.Position; mark != s.Log.Head || uint64(len(list)) != want {
		return fmt.Errorf("records after the pruned: got %d to %v, want %d to %v", len(list), mark, want, s.Log.Head)
	}
	for _, h := range beyond(s.History, s.Log.Pruned.Position) {
		got, err := r.MarkAt(h.Position)
		if want := (feed.Mark{Position: h.Position, Digest: h.Digest}); err != nil || got != want {
			return fmt.Errorf("mark at %d: got %v, %w, want %v", h.Position, got, err, want)
		}
	}
	return nil
}

func (s state) checkSessions(r issuer.Reader) error {
	for _, one := range s.Sessions {
		a, err := r.Account(one.Subject)
		if err != nil {
			return fmt.Errorf("account of session %s: %w", one.ID, err)
		}
		for _, m := range a.ClaimValues() {
			if !slices.Contains(s.Matches[m].Sessions, one.ID) {
				return fmt.Errorf("session %s does not match %v of its account", one.ID, m)
			}
		}
	}
	return nil
}
