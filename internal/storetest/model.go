package storetest

import (
	"cmp"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

// model is an issuer.Tx in maps, as simple as can be: what a store must agree
// with. It is changed by replacing what it holds, so copy is a checkpoint.
type model struct {
	accounts map[string]issuer.Account
	sessions map[string]issuer.Session
	log      issuer.Log
	history  []issuer.Revocation
	archived map[uint64]bool
	signing  map[string]issuer.SigningKey
	keys     map[string]issuer.APIKey
	nodes    map[string]issuer.Node
	known    []issuer.Verifier
	evidence []issuer.Confirmation
	audit    []issuer.AuditEntry // oldest first
	appended uint64              // last position of this transaction
}

var _ issuer.Tx = (*model)(nil)

// newModel returns the model of an empty store whose log is l.
func newModel(l issuer.Log) *model {
	return &model{
		accounts: map[string]issuer.Account{}, sessions: map[string]issuer.Session{}, archived: map[uint64]bool{},
		signing: map[string]issuer.SigningKey{}, keys: map[string]issuer.APIKey{}, nodes: map[string]issuer.Node{}, log: l,
	}
}

// copy returns m as the next transaction finds it.
func (m *model) copy() *model {
	return &model{
		accounts: maps.Clone(m.accounts), sessions: maps.Clone(m.sessions), archived: maps.Clone(m.archived),
		signing: maps.Clone(m.signing), keys: maps.Clone(m.keys), nodes: maps.Clone(m.nodes),
		known: slices.Clone(m.known), evidence: slices.Clone(m.evidence),
		log: m.log, history: slices.Clone(m.history), audit: slices.Clone(m.audit),
	}
}

func sorted[T any](rows map[string]T, keep func(T) bool, less func(a, b T) int) []T {
	var list []T
	for _, row := range rows {
		if keep(row) {
			list = append(list, row)
		}
	}
	slices.SortFunc(list, less)
	return list
}

func first[T any](list []T) (T, error) {
	if len(list) == 0 {
		var zero T
		return zero, issuer.ErrNotFound
	}
	return list[0], nil
}

func up[T any](list []T, limit int) []T { return list[:min(limit, len(list))] }

func (m *model) Now() time.Time { return epoch }

func (m *model) Account(subject string) (issuer.Account, error) {
	return first(sorted(m.accounts, func(a issuer.Account) bool { return a.Subject == subject }, bySubject))
}

func (m *model) AccountNamed(name string) (issuer.Account, error) {
	return first(sorted(m.accounts, func(a issuer.Account) bool { return a.Name == name && name != "" }, bySubject))
}

func (m *model) Accounts(after string, limit int) ([]issuer.Account, error) {
	return up(sorted(m.accounts, func(a issuer.Account) bool { return a.Subject > after }, bySubject), limit), nil
}

func bySubject(a, b issuer.Account) int { return cmp.Compare(a.Subject, b.Subject) }

func (m *model) AccountClaims() ([]string, error) {
	names := make(map[string]bool)
	for _, a := range m.accounts {
		for _, v := range a.ClaimValues() {
			names[v.Claim] = true
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}

func (m *model) matches(by issuer.Match, s issuer.Session) bool {
	carried := append(m.accounts[s.Subject].ClaimValues(), issuer.Match{},
		issuer.Match{Claim: "sub", Value: s.Subject}, issuer.Match{Claim: "sid", Value: s.ID}, issuer.Match{Claim: "client_id", Value: s.Client})
	return slices.Contains(carried, by)
}

func (m *model) Session(id string) (issuer.Session, error) {
	return first(sorted(m.sessions, func(s issuer.Session) bool { return s.ID == id }, byID))
}

func (m *model) Sessions(by issuer.Match, after string, limit int) ([]issuer.Session, error) {
	return up(sorted(m.sessions, func(s issuer.Session) bool { return s.ID > after && m.matches(by, s) }, byID), limit), nil
}

func byID(a, b issuer.Session) int { return cmp.Compare(a.ID, b.ID) }

func (m *model) CountSessions(by issuer.Match, now time.Time) (sessions, tokens int, err error) {
	list, _ := m.Sessions(by, "", some)
	for _, s := range list {
		for _, exp := range s.Tokens {
			if int64(exp) > now.Unix() {
				tokens++
			}
		}
	}
	return len(list), tokens, nil
}

func (m *model) Oldest(by issuer.Match) (issuer.Session, error) {
	return first(sorted(m.sessions, func(s issuer.Session) bool { return m.matches(by, s) },
		func(a, b issuer.Session) int { return cmp.Or(a.LastUsed.Compare(b.LastUsed), byID(a, b)) }))
}

func (m *model) Log() (issuer.Log, error) { return m.log, nil }

func (m *model) Records(after uint64, limit int) ([]revset.Record, feed.Mark, error) {
	mark, err := m.MarkAt(after)
	var list []revset.Record
	for _, h := range up(m.history[after:], limit) {
		list, mark = append(list, h.Record()), feed.Mark{Position: h.Position, Digest: h.Digest}
	}
	return list, mark, err
}

func (m *model) MarkAt(position uint64) (feed.Mark, error) {
	if position == 0 {
		return feed.Mark{}, nil
	}
	return feed.Mark{Position: position, Digest: m.history[position-1].Digest}, nil
}

func (m *model) Live(yield func(revset.Record) error) error {
	for _, h := range m.history {
		if m.archived[h.Position] {
			continue
		}
		if err := yield(h.Record()); err != nil {
			return err
		}
	}
	return nil
}

func (m *model) History(after uint64, limit int) ([]issuer.Revocation, error) {
	return slices.Clone(up(m.history[after:], limit)), nil
}

func (m *model) SigningKeys() ([]issuer.SigningKey, error) {
	return sorted(m.signing, func(issuer.SigningKey) bool { return true }, func(a, b issuer.SigningKey) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	}), nil
}

func (m *model) apiKeys(keep func(issuer.APIKey) bool) []issuer.APIKey {
	return sorted(m.keys, keep, func(a, b issuer.APIKey) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
}

func (m *model) APIKeys() ([]issuer.APIKey, error) {
	return m.apiKeys(func(issuer.APIKey) bool { return true }), nil
}

func (m *model) APIKey(id string) (issuer.APIKey, error) {
	return first(m.apiKeys(func(k issuer.APIKey) bool { return k.ID == id }))
}

func (m *model) Audit(q issuer.AuditQuery) ([]issuer.AuditEntry, error) {
	var list []issuer.AuditEntry
	at := uint64(math.MaxUint64)
	for _, e := range m.audit {
		if e.Position >= max(q.Position, 1) {
			at = min(at, e.Position)
		}
	}
	for _, e := range slices.Backward(m.audit) {
		full := q.Limit > 0 && len(list) == q.Limit
		if !full && (q.Position == 0 || e.Position == at) && (q.Before == 0 || e.ID < q.Before) && (q.Subject == "" || e.Subject == q.Subject) && (q.Event == "" || e.Event == q.Event) {
			list = append(list, e)
		}
	}
	return list, nil
}

func (m *model) PutAccount(a issuer.Account) error {
	if o, err := m.AccountNamed(a.Name); err == nil && o.Subject != a.Subject {
		return issuer.ErrExists
	}
	m.accounts[a.Subject] = a
	return nil
}

func (m *model) DeleteAccount(subject string) error {
	if _, err := m.Account(subject); err != nil {
		return err
	}
	delete(m.accounts, subject)
	maps.DeleteFunc(m.sessions, func(_ string, s issuer.Session) bool { return s.Subject == subject })
	return nil
}

func (m *model) PutSession(s issuer.Session) error {
	if _, err := m.Account(s.Subject); err != nil {
		return err
	}
	m.sessions[s.ID] = s
	return nil
}

func (m *model) EndSessions(by issuer.Match, except string, now time.Time) (sessions, tokens int, err error) {
	kept, exempt := m.sessions[except]
	exempt = exempt && m.matches(by, kept)
	if exempt {
		delete(m.sessions, except)
	}
	sessions, tokens, err = m.CountSessions(by, now)
	maps.DeleteFunc(m.sessions, func(_ string, s issuer.Session) bool { return m.matches(by, s) })
	if exempt {
		m.sessions[except] = kept
	}
	return sessions, tokens, err
}

func (m *model) ForgetTokens(by issuer.Match) error {
	for id, s := range m.sessions {
		if m.matches(by, s) {
			s.Tokens = nil
			m.sessions[id] = s
		}
	}
	return nil
}

func (m *model) AppendRevocation(r issuer.Revocation) error {
	m.log.Head = r.Seal(m.log)
	m.history = append(m.history, r)
	m.appended = r.Position
	if i, used := slices.BinarySearch(m.log.Claims, r.Claim); !used {
		m.log.Claims = slices.Insert(slices.Clone(m.log.Claims), i, r.Claim)
	}
	return nil
}

func (m *model) SetMaxLifetime(d time.Duration) error {
	m.log.MaxLifetime = max(m.log.MaxLifetime, d)
	return nil
}

func (m *model) PutSigningKey(k issuer.SigningKey) error {
	m.signing[k.ID] = k
	return nil
}

func (m *model) PutAPIKey(k issuer.APIKey) error {
	if len(m.apiKeys(func(o issuer.APIKey) bool { return o.Name == k.Name && o.ID != k.ID })) > 0 {
		return issuer.ErrExists
	}
	m.keys[k.ID] = k
	return nil
}

func (m *model) DeleteAPIKey(id string) error {
	_, err := m.APIKey(id)
	delete(m.keys, id)
	return err
}

func (m *model) AppendAudit(e issuer.AuditEntry) error {
	e.ID, e.Position = uint64(len(m.audit))+1, m.appended
	m.audit = append(m.audit, e)
	return nil
}

func (m *model) Nodes() ([]issuer.Node, error) {
	return sorted(m.nodes, func(issuer.Node) bool { return true }, func(a, b issuer.Node) int { return cmp.Compare(a.ID, b.ID) }), nil
}

func (m *model) Verifiers(node string, numbers []uint32) ([]issuer.Verifier, error) {
	var list []issuer.Verifier
	for _, v := range m.known {
		if v.Node == node && slices.Contains(numbers, v.Number) {
			list = append(list, v)
		}
	}
	slices.SortFunc(list, func(a, b issuer.Verifier) int { return cmp.Compare(a.Number, b.Number) })
	return list, nil
}

func (m *model) Confirmations(position uint64) ([]issuer.Confirmation, error) {
	var list []issuer.Confirmation
	for _, c := range m.evidence {
		if c.First <= position && position <= c.Last {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b issuer.Confirmation) int { return cmp.Compare(a.Node, b.Node) })
	return list, nil
}

func (m *model) PutNode(n issuer.Node) error {
	m.nodes[n.ID] = n
	return nil
}

func (m *model) DeleteNode(id string) error {
	if _, found := m.nodes[id]; !found {
		return issuer.ErrNotFound
	}
	delete(m.nodes, id)
	return nil
}

func (m *model) PutVerifier(v issuer.Verifier) error {
	if !slices.ContainsFunc(m.known, func(o issuer.Verifier) bool { return o.Node == v.Node && o.Number == v.Number }) {
		m.known = append(m.known, v)
	}
	return nil
}

func (m *model) PutConfirmation(c issuer.Confirmation) error {
	overlaps := func(o issuer.Confirmation) bool { return o.Node == c.Node && o.First <= c.Last && c.First <= o.Last }
	if !slices.ContainsFunc(m.evidence, overlaps) {
		m.evidence = append(m.evidence, c)
	}
	return nil
}

// prune is Store.Prune without a limit.
func (m *model) prune(now time.Time, idle time.Duration) (records, sessions int) {
	for _, h := range m.history {
		if int64(h.Forget) < now.Unix() && !m.archived[h.Position] {
			m.archived[h.Position] = true
			records++
			if h.Position > m.log.Pruned.Position {
				m.log.Pruned = feed.Mark{Position: h.Position, Digest: h.Digest}
			}
		}
	}
	before := len(m.sessions)
	maps.DeleteFunc(m.sessions, func(_ string, s issuer.Session) bool {
		return now.Sub(s.LastUsed) > idle || !now.Before(s.Expires)
	})
	return records, before - len(m.sessions)
}

// try runs fn on a copy of m and returns what m is afterwards.
func (m *model) try(fn func(issuer.Tx) error) (*model, error) {
	next := m.copy()
	err := fn(next)
	if err != nil {
		return m, err
	}
	return next, nil
}

// same reports whether two errors are the same to callers of a store.
func same(a, b error) bool {
	for _, known := range []error{issuer.ErrNotFound, issuer.ErrExists, issuer.ErrUnknown, errRefused} {
		if errors.Is(a, known) != errors.Is(b, known) {
			return false
		}
	}
	return (a == nil) == (b == nil)
}
