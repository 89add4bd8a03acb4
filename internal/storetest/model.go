package storetest

import (
	"cmp"
	"errors"
	"iter"
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
	epochs   []issuer.Epoch
	history  []issuer.Revocation
	archived map[uint64]bool
	signing  map[string]issuer.SigningKey
	keys     map[string]issuer.APIKey
	clients  map[string]issuer.Client
	spent    map[[32]byte]time.Time // assertions, with when they expire
	nodes    map[string]issuer.Node
	known    []issuer.Verifier
	evidence []issuer.Confirmation
	audit    []issuer.AuditEntry // oldest first
	appended uint64              // last position of this transaction
	now      time.Time           // of this transaction
}

var _ issuer.Tx = (*model)(nil)

// newModel returns the model of an empty store whose log is l.
func newModel(l issuer.Log) *model {
	return &model{
		accounts: map[string]issuer.Account{}, sessions: map[string]issuer.Session{}, archived: map[uint64]bool{},
		signing: map[string]issuer.SigningKey{}, keys: map[string]issuer.APIKey{}, nodes: map[string]issuer.Node{}, log: l,
		clients: map[string]issuer.Client{}, spent: map[[32]byte]time.Time{},
	}
}

// copy returns m as the next transaction finds it.
func (m *model) copy() *model {
	return &model{
		accounts: maps.Clone(m.accounts), sessions: maps.Clone(m.sessions), archived: maps.Clone(m.archived),
		signing: maps.Clone(m.signing), keys: maps.Clone(m.keys), nodes: maps.Clone(m.nodes),
		clients: maps.Clone(m.clients), spent: maps.Clone(m.spent),
		known: slices.Clone(m.known), evidence: slices.Clone(m.evidence), epochs: slices.Clone(m.epochs),
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

func (m *model) Now() time.Time { return m.now }

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
	for _, h := range up(beyond(m.history, after), limit) {
		list, mark = append(list, h.Record()), feed.Mark{Position: h.Position, Digest: h.Digest}
	}
	return list, mark, err
}

func (m *model) MarkAt(position uint64) (feed.Mark, error) {
	return markAt(m.history, m.epochs, position), nil
}

// beyond returns the part of a history after a position.
func beyond(history []issuer.Revocation, position uint64) []issuer.Revocation {
	i, _ := slices.BinarySearchFunc(history, position+1, func(r issuer.Revocation, p uint64) int { return cmp.Compare(r.Position, p) })
	return history[i:]
}

// markAt returns the mark of a position that a record has, or an epoch begins at.
func markAt(history []issuer.Revocation, epochs []issuer.Epoch, position uint64) feed.Mark {
	for _, e := range epochs {
		if e.Begin.Position == position {
			return e.Begin
		}
	}
	if position == 0 {
		return feed.Mark{}
	}
	return feed.Mark{Position: position, Digest: beyond(history, position-1)[0].Digest}
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
	return slices.Clone(up(beyond(m.history, after), limit)), nil
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

func (m *model) Client(id string) (issuer.Client, error) {
	return first(sorted(m.clients, func(c issuer.Client) bool { return c.ID == id }, byClientID))
}

func (m *model) Clients() ([]issuer.Client, error) {
	return sorted(m.clients, func(issuer.Client) bool { return true }, byClientID), nil
}

func byClientID(a, b issuer.Client) int { return cmp.Compare(a.ID, b.ID) }

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

func (m *model) Requested() (bool, error)                   { return false, nil }
func (m *model) Answered(uint64) (uint64, error)            { return 0, issuer.ErrNotFound }
func (m *model) TakeRequests(int) ([]issuer.Request, error) { return nil, nil }
func (m *model) AnswerRequest(uint64) error                 { return issuer.ErrNotFound }
func (m *model) Epochs() ([]issuer.Epoch, error)            { return slices.Clone(m.epochs), nil }

func (m *model) BeginEpoch(id, reason string) (issuer.Epoch, error) {
	e := m.log.Lift(id, reason, m.Now())
	m.log.ID, m.log.Epoch, m.log.Head, m.log.Pruned = e.Log, e.Number, e.Begin, e.Begin
	m.epochs = append(m.epochs, e)
	return e, nil
}

func (m *model) Restore(l issuer.Log, epochs []issuer.Epoch, records iter.Seq2[issuer.Revocation, error]) error {
	if len(m.history)+len(m.epochs) > 0 {
		return errors.New("the log is not empty")
	}
	for r, err := range records {
		if err != nil {
			return err
		}
		m.history = append(m.history, r)
		if int64(r.Forget) < m.Now().Unix() {
			m.archive(&l, r)
		}
	}
	m.log, m.epochs = l, slices.Clone(epochs)
	return nil
}

// archive takes a record out of the live log l.
func (m *model) archive(l *issuer.Log, r issuer.Revocation) {
	m.archived[r.Position] = true
	if r.Position > l.Pruned.Position {
		l.Pruned = feed.Mark{Position: r.Position, Digest: r.Digest}
	}
}

func (m *model) SetMaxLifetime(d time.Duration) error {
	m.log.MaxLifetime = max(m.log.MaxLifetime, d)
	return nil
}

func (m *model) PutIssuer(f issuer.Foreign) error {
	m.log = m.log.With(f)
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

func (m *model) PutClient(c issuer.Client) error {
	m.clients[c.ID] = c
	return nil
}

func (m *model) DeleteClient(id string) error {
	_, err := m.Client(id)
	delete(m.clients, id)
	return err
}

func (m *model) SpendAssertion(id [32]byte, until time.Time) error {
	if _, spent := m.spent[id]; spent {
		return issuer.ErrExists
	}
	m.spent[id] = until
	return nil
}

func (m *model) AppendAudit(e issuer.AuditEntry) error {
	e.ID, e.Position = uint64(len(m.audit))+1, cmp.Or(e.Position, m.appended)
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
			m.archive(&m.log, h)
			records++
		}
	}
	maps.DeleteFunc(m.spent, func(_ [32]byte, until time.Time) bool { return now.Sub(until) > time.Minute })
	before := len(m.sessions)
	maps.DeleteFunc(m.sessions, func(_ string, s issuer.Session) bool {
		return now.Sub(s.LastUsed) > idle || !now.Before(s.Expires)
	})
	return records, before - len(m.sessions)
}

// try runs fn at a time on a copy of m and returns what m is afterwards.
func (m *model) try(now time.Time, fn func(issuer.Tx) error) (*model, error) {
	next := m.copy()
	next.now = now
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
