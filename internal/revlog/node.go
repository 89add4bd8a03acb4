package revlog

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/lease"
)

// errGone says that somebody took this node's row out, holding it for dead.
var errGone = errors.New("another node took this one for dead")

// The rules bound leases as this package does: no array has a negative length.
var _ = [issuer.LongestLease - time.Duration(lease.Max)]struct{}{} == [time.Duration(lease.Max) - issuer.LongestLease]struct{}{}

// membership is what a node knows of itself and of the others, through the rows
// that all of them keep in the store.
type membership struct {
	row   issuer.Node // this node's; no ID before it has joined
	peers map[string]peer
	seen  uint64        // peers are as of a look that found this head
	owed  time.Duration // until then leases may run that were forgotten
	// loaded is where this node, as the row has it, began to read: what it
	// found was committed before. Nil while it has not.
	loaded *loaded
}

type loaded struct {
	position uint64
	at       lease.Moment
}

// peer is another node's row.
type peer struct {
	issuer.Node
	since lease.Moment // when it was first seen as it is
	beats bool         // it was seen to renew
	owed  []identity   // who held its leases when it ended in order
}

// dead says whether every lease that the node may have granted has ended: it
// renewed nothing for as long. A row that nobody renews grants nothing.
func (p peer) dead(now lease.Moment) bool {
	return now.Mono-p.since.Mono >= lease.Length(p.Lease).Whole()
}

// look notes the rows that were found together with a head.
func (m *membership) look(nodes []issuer.Node, head uint64, now lease.Moment) {
	peers := make(map[string]peer, len(nodes))
	for _, n := range nodes {
		if n.ID == m.row.ID {
			continue
		}
		p, known := m.peers[n.ID]
		if !known || p.Counter != n.Counter {
			p.since, p.beats, p.owed = now, known, owed(n)
		}
		p.Node = n
		peers[n.ID] = p
	}
	m.peers, m.seen = peers, head
}

// behind returns the other nodes of which it is not known that no holder of a
// lease of theirs lacks a position. The caller holds mu.
func (l *Log) behind(position uint64, now lease.Moment) (nodes []string) {
	for id, p := range l.peers {
		if l.reach(p, now) < position {
			nodes = append(nodes, id)
		}
	}
	return nodes
}

// reach returns the position that every holder of a lease of another node has
// applied, as far as is known here. Of a node that ended in order the holders
// are known: what a process has applied here it refuses, whoever granted the
// lease by which it goes on. The caller holds mu.
func (l *Log) reach(p peer, now lease.Moment) uint64 {
	if p.dead(now) {
		return math.MaxUint64
	}
	if p.owed == nil {
		return p.Floor
	}
	inherited := uint64(math.MaxUint64)
	for _, id := range p.owed {
		here := l.processes[id]
		if here == nil {
			return p.Floor
		}
		inherited = min(inherited, here.Applied())
	}
	return max(p.Floor, inherited)
}

// agreed returns the position up to which, by looking, everything is confirmed.
// The caller holds mu.
func (l *Log) agreed(now lease.Moment) uint64 {
	if l.row.ID == "" {
		return 0
	}
	agreed := min(l.book.Floor(), l.seen)
	for _, p := range l.peers {
		agreed = min(agreed, l.reach(p, now))
	}
	return agreed
}

// owed reads what a node wrote down as it ended. What cannot be read is as if
// it had crashed.
func owed(n issuer.Node) []identity {
	var written []holder
	if n.Owed == "" || json.Unmarshal([]byte(n.Owed), &written) != nil {
		return nil
	}
	ids := make([]identity, len(written))
	for i, h := range written {
		ids[i] = identity{h.Key, h.Process}
	}
	return ids
}

// holder is how a node writes down who holds a lease.
type holder struct {
	Key     string `json:"key"`
	Process string `json:"process"`
}

// longest returns the longest lease, with its margin, that any node grants, as
// far as is known: where the rows were not looked at since the position was
// committed, a new one may grant as long a lease as there is.
func (m *membership) longest(own lease.Length, position uint64) time.Duration {
	if m.seen < position {
		return lease.Max.Whole()
	}
	longest := own
	for _, p := range m.peers {
		longest = max(longest, lease.Length(p.Lease))
	}
	return longest.Whole()
}

// alone says whether no other node was seen to renew its row lately, to which
// verifiers could go.
func (m *membership) alone(now lease.Moment) bool {
	for _, p := range m.peers {
		if p.beats && p.owed == nil && !p.dead(now) {
			return false
		}
	}
	return true
}

// join makes this process a node, with a new row, and renews it for the first
// time. Whoever looks for rows after a commit must find every node that could
// grant below it, so the row is committed before the first renewal begins.
func (l *Log) join(ctx context.Context) error {
	l.mu.Lock()
	row := l.row
	l.mu.Unlock()
	if row.ID == "" {
		if l.id == "" {
			l.id = rand.Text() // kept over attempts: a commit that failed may stand
		}
		row = issuer.Node{ID: l.id, Issuer: l.cfg.Issuer, Lease: time.Duration(l.cfg.Lease), Started: time.Now()}
		if err := l.update(ctx, func(w Writer) error { return w.PutNode(row) }); err != nil {
			return fmt.Errorf("write this node's row: %w", err)
		}
		l.mu.Lock()
		l.row, l.id = row, ""
		l.mu.Unlock()
	}
	err := l.renew(ctx)
	if errors.Is(err, errGone) {
		l.depart(err.Error())
	}
	return err
}

// depart has the process be no node any more, and ends the connections with
// the reason. What it granted is forgotten here, so the next node that it is
// keeps its floor down until all of it must have ended.
func (l *Log) depart(reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.owed = l.cfg.Clock().Mono + l.longest(l.cfg.Lease, 0)
	l.row, l.loaded, l.peers, l.seen = issuer.Node{}, nil, nil, 0
	l.book, l.raised = lease.NewBook(l.cfg.Lease), 0
	l.book.Hold()
	l.evidence.abandon()
	for _, p := range l.processes {
		p.forget()
	}
	l.generation++
	l.dismissAll(feed.Bye{Code: feed.ByeChanged, Detail: reason})
}

// renew renews the node's row until the outbox was empty with it.
func (l *Log) renew(ctx context.Context) error {
	for {
		left, err := l.renewOnce(ctx)
		if err == nil && left {
			err = ctx.Err()
		}
		if err != nil || !left {
			return err
		}
	}
}

// renewOnce renews the node's row, drains the outbox and reads the log's head:
// from the moment before, a lease is granted to whoever has applied the log up to
// there. As long as requests are left there are revocations that the log does not
// have, and it counts for nothing.
func (l *Log) renewOnce(ctx context.Context) (left bool, err error) {
	l.mu.Lock()
	// One of unknown outcome may stand, and what is written next must differ
	// from it: a row that others see unchanged is that of a dead node.
	l.row.Counter++
	l.row.Floor = l.book.Floor()
	row, known, at, loaded := l.row, l.settings.log, l.ring.head, l.loaded != nil
	l.mu.Unlock()
	if row.ID == "" {
		return false, nil // it is about to join
	}
	began := l.cfg.Clock()
	var found issuer.Log
	err = l.update(ctx, func(w Writer) (err error) {
		if left, err = w.Drain(); err != nil {
			return err
		}
		if found, err = w.Log(); err != nil {
			return err
		}
		if loaded && (found.ID != known.ID || found.Epoch != known.Epoch || found.Head.Position < at.Position) {
			return fmt.Errorf("%w: it is log %s, epoch %d, and ends at %d", errContradicted, found.ID, found.Epoch, found.Head.Position)
		}
		if row.Counter, err = next(w, row.ID); err != nil {
			return err
		}
		return w.PutNode(row)
	})
	if err != nil {
		return false, fmt.Errorf("renew this node's row: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.row.ID == row.ID && !left {
		l.book.Renewed(began, found.Head.Position)
	}
	return left, nil
}

// next returns the counter with which the node's row is written next: above the
// one that stands there, and not above the one that this node wrote last. A
// commit that was taken for failed may stand, and a renewal that did not change
// what others see of the row would let them take the node for dead.
func next(w Writer, id string) (uint64, error) {
	nodes, err := w.Nodes()
	if err != nil {
		return 0, err
	}
	for _, n := range nodes {
		if n.ID == id {
			return n.Counter + 1, nil
		}
	}
	return 0, errGone
}

// beat renews until ctx ends: at each beat, and whenever the floor has risen
// while there are other nodes, to whom the row has to tell it.
func (l *Log) beat(ctx context.Context) {
	tick := time.NewTicker(l.cfg.Lease.Beat())
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-l.risen:
		}
		l.mu.Lock()
		id := l.row.ID
		l.mu.Unlock()
		err := l.renew(ctx)
		if errors.Is(err, errGone) || errors.Is(err, errContradicted) || errors.Is(err, issuer.ErrForked) {
			select {
			case l.begin <- failure{id, err.Error()}:
			default: // it has been told
			}
			continue
		}
		if err != nil && !failing && ctx.Err() == nil {
			l.cfg.Logger.Error("this node's row cannot be renewed; verifiers refuse when their leases end, unless it succeeds before", "error", err)
		}
		failing = err != nil
	}
}

// drain empties the outbox whenever it is seen to hold requests, until ctx ends.
func (l *Log) drain(ctx context.Context) {
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.requested:
		}
		var err error
		for left := true; left && err == nil; {
			err = l.update(ctx, func(w Writer) (err error) {
				left, err = w.Drain()
				return err
			})
		}
		if err != nil && !failing && ctx.Err() == nil {
			l.cfg.Logger.Error("requests wait in the outbox and cannot be carried out; it is tried again every second, and verifiers refuse when their leases end, unless it succeeds before", "error", err)
		}
		failing = err != nil
	}
}

// failure says why a node cannot go on.
type failure struct{ node, reason string }

// leave takes the node's row out, or, where verifiers rely on it still, writes
// down who they are: the next node need not wait for those who come to it.
func (l *Log) leave(ctx context.Context) {
	l.mu.Lock()
	row, held := l.row, l.book.Held()
	row.Floor = l.book.Floor()
	holders := []holder{}
	for _, p := range l.processes {
		if l.book.Holds(&p.Holder) {
			holders = append(holders, holder{p.id.key, p.id.process})
		}
	}
	l.mu.Unlock()
	if row.ID == "" || held { // what a held floor stands for is known to nobody
		return
	}
	err := l.update(ctx, func(w Writer) error {
		var err error
		if row.Counter, err = next(w, row.ID); err != nil {
			return err
		}
		if len(holders) == 0 {
			return w.DeleteNode(row.ID)
		}
		// Names and ids can always be encoded.
		written, _ := json.Marshal(holders)
		row.Owed = string(written)
		return w.PutNode(row)
	})
	switch {
	case errors.Is(err, errGone):
	case err != nil:
		l.cfg.Logger.Warn("this node's row stays behind; revocations are confirmed a lease later until it counts as dead", "error", err)
	case len(holders) > 0:
		l.cfg.Logger.Info("verifiers go on until their leases end", "verifiers", len(holders), "lease", time.Duration(l.cfg.Lease))
	}
}

// bury takes out the rows of nodes that are dead.
func (l *Log) bury(ctx context.Context) {
	now := l.cfg.Clock()
	l.mu.Lock()
	var dead []issuer.Node
	for _, p := range l.peers {
		if p.dead(now) {
			dead = append(dead, p.Node)
		}
	}
	l.mu.Unlock()
	if len(dead) == 0 {
		return
	}
	err := l.update(ctx, func(w Writer) error {
		nodes, err := w.Nodes()
		if err != nil {
			return err
		}
		for _, n := range nodes {
			for _, d := range dead {
				if n.ID != d.ID || n.Counter != d.Counter {
					continue
				}
				if err := w.DeleteNode(n.ID); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		l.cfg.Logger.Warn("the row of a dead node could not be taken out; it is tried again", "error", err)
	}
}

func (l *Log) update(ctx context.Context, fn func(Writer) error) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return l.source.Update(ctx, fn)
}

// wake leaves a value in c, unless there is one.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
