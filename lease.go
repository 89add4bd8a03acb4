package quash

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/lease"
)

// What a verifier says of its leases where it refuses.
const (
	leaseMissing = "no node has granted it a lease yet"
	leaseEnded   = "its lease has ended, and no node has granted it another"
)

// inTime is how late a lease is that has not ended.
const inTime = time.Duration(-1)

// deadline is the end of a lease. It is counted from the sending of the ping
// that earned it, which was before the node began to count.
type deadline struct {
	length lease.Length // 0: there was no lease
	sent   lease.Moment
	until  time.Duration // by the monotonic clock of sent
}

// over says whether the lease has ended, or cannot be measured any more because
// the machine slept, or its wall clock was set.
func (d *deadline) over(now lease.Moment) bool {
	return now.Mono >= d.until || d.length.Slept(d.sent, now)
}

// late returns how long ago the lease ended, by the clock that says longer. One
// that cannot be measured any more ended when the clocks parted.
func (d *deadline) late(now lease.Moment) time.Duration {
	if !d.over(now) {
		return inTime
	}
	cut := d.cut(now)
	return max(now.Mono-cut.until, time.Duration(now.Wall-cut.wall()), 0)
}

// cut returns a lease that has ended, at a moment that has passed.
func (d deadline) cut(now lease.Moment) deadline {
	d.until = min(d.until, now.Mono)
	return d
}

// wall returns the end in Unix nanoseconds, as of when the ping was sent.
func (d *deadline) wall() int64 { return d.sent.Wall + int64(d.until-d.sent.Mono) }

// freshness says until when a verifier may rely on what it knows. It never
// changes: another takes its place.
type freshness struct {
	doubt string   // why not at all; empty: while the lease lasts
	lease deadline // the latest, though it has ended
}

// lasts says whether the verifier may rely on what it knows.
func (f *freshness) lasts(now lease.Moment) bool { return f.doubt == "" && !f.lease.over(now) }

// bear says how late the lease is, and refuses where that is too much: a route
// may bear an ended lease for a time, and nothing else.
func (f *freshness) bear(now lease.Moment, tolerance time.Duration) (time.Duration, error) {
	if f.lasts(now) {
		return inTime, nil
	}
	late := f.lease.late(now)
	if f.doubt != "" || late >= tolerance {
		return late, fmt.Errorf("%w: %s", ErrStale, f.reason(now))
	}
	return late, nil
}

// reason says why tokens are refused where nothing is borne; empty: they are
// not.
func (f *freshness) reason(now lease.Moment) string {
	if f.doubt == "" && f.lease.over(now) {
		return leaseEnded
	}
	return f.doubt
}

// sendings remembers when pings were sent.
type sendings struct {
	mu   sync.Mutex
	last uint64
	open []sending // oldest first
}

type sending struct {
	stamp uint64
	at    lease.Moment
}

// maxOpen is how many pings are told apart while they are not answered.
const maxOpen = 64

// stamp returns the stamp of a ping that is about to be sent. Where too many
// are open it is the latest one's, which was sent before: its lease ends
// sooner.
func (s *sendings) stamp(now lease.Moment) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) < maxOpen {
		s.last++
		s.open = append(s.open, sending{s.last, now})
	}
	return s.last
}

// answered returns when the ping of a stamp was sent, and forgets those before
// it.
func (s *sendings) answered(stamp uint64) (lease.Moment, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.open, func(o sending) bool { return o.stamp == stamp })
	if i < 0 {
		return lease.Moment{}, false
	}
	s.open = slices.Delete(s.open, 0, i)
	return s.open[0].at, true
}

// hear takes what a pong tells beside its mark: the node's clock, which was
// read between the ping's sending and now, and the lease that it grants. Once
// the connection has one, another that is being left is not needed any more.
func (f *follower) hear(s *session, p feed.Pong, sent lease.Moment) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.config.clock()
	f.heard, f.clock, f.trip = now, time.UnixMilli(p.Clock), now.Mono-sent.Mono
	f.trim(now)
	if until := sent.Mono + p.Grant; p.Grant > 0 && until > f.leases[s].until {
		f.leases[s] = deadline{s.length, sent, until}
	}
	f.trim(now)
	old := f.leaving
	if _, ok := f.leases[s]; ok && old != nil {
		delete(f.leases, old)
		f.leaving = nil
	}
	f.compare(now)
	if f.leaving != old {
		f.sessions.Go(old.part)
	}
}

// trim drops the leases that are over. What was once noticed stays so, whatever
// the clocks say later.
func (f *follower) trim(now lease.Moment) {
	maps.DeleteFunc(f.leases, func(_ *session, d deadline) bool { return d.over(now) })
}

// closed notes that a connection is closed. That gives nothing back: what was
// granted on it counts until it ends.
func (f *follower) closed(s *session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.leaving == s {
		f.leaving = nil
	}
	if f.current == s {
		f.current = nil
	}
	f.trim(f.config.clock())
	if d, ok := f.leases[s]; ok && d.until > f.leases[nil].until {
		f.leases[nil] = d
	}
	delete(f.leases, s)
}

// latest returns the latest lease, or else the one that was relied on last.
func (f *follower) latest(now lease.Moment) deadline {
	f.trim(now)
	var latest deadline
	for _, d := range f.leases {
		if d.until > latest.until {
			latest = d
		}
	}
	if latest.length == 0 {
		latest = f.relied.cut(now)
	}
	f.relied = latest
	return latest
}

// weigh makes the verifier stale or fresh by the reasons there are. The caller
// holds mu.
func (f *follower) weigh(now lease.Moment) {
	next := &freshness{doubt: f.reason(), lease: f.latest(now)}
	if next.doubt == "" && next.lease.length == 0 {
		next.doubt = leaseMissing
	}
	if *next != *f.fresh.Load() {
		f.fresh.Store(next)
	}
	f.alarm.Stop()
	if wait := f.wait(next, now); wait > 0 {
		f.alarm.Reset(wait)
	}
	f.announce(next.reason(now))
}

// alarmLeast keeps an alarm that found nothing over, since a clock is held up,
// from going off all the time.
const alarmLeast = time.Millisecond

// wait returns how long it is until the lease, or a route's tolerance, ends by
// itself; 0: neither will.
func (f *follower) wait(fresh *freshness, now lease.Moment) (least time.Duration) {
	if fresh.doubt != "" {
		return 0
	}
	if !fresh.lease.over(now) {
		return fresh.lease.until - now.Mono
	}
	late := fresh.lease.late(now)
	for _, t := range f.tolerances {
		if left := t - late; left > 0 && (least == 0 || left < least) {
			least = left
		}
	}
	return least
}

// ring shows that a lease, or a route's tolerance, has ended.
func (f *follower) ring() {
	f.mu.Lock()
	now := f.config.clock()
	f.weigh(now)
	if wait := f.wait(f.fresh.Load(), now); wait > 0 && wait < alarmLeast {
		f.alarm.Reset(alarmLeast)
	}
	f.mu.Unlock()
	f.watches.recheck()
}

// announce tells whom it concerns that the verifier became stale, for a reason,
// or fresh, without one. The caller holds mu.
func (f *follower) announce(reason string) {
	former := f.announced
	if reason == former {
		return
	}
	f.announced = reason
	if reason == "" {
		f.log.Info("fresh: accepting tokens")
		f.start(nil)
		return
	}
	if former == "" {
		f.spells++
	}
	f.watches.recheck()
	level := slog.LevelWarn
	if f.closing || f.clock.IsZero() || reason == leaseMissing { // to be expected: it ends, or has not begun
		level = slog.LevelInfo
	}
	f.log.Log(context.Background(), level, "stale: refusing tokens", "reason", reason)
}

// reason says what leaves it in doubt whether the verifier's revocations are
// all there are, and whether its clock is right. The caller holds mu.
func (f *follower) reason() string {
	if f.closing {
		return "it was closed"
	}
	return cmp.Or(f.doubt, f.skew)
}

// suspect makes the verifier stale until it is in step, and has a lease from
// after that.
func (f *follower) suspect(doubt string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.doubt, f.relied = doubt, deadline{}
	clear(f.leases)
	f.weigh(f.config.clock())
}

// compare makes the verifier stale while its wall clock and the node's part.
// The node's is carried on by the monotonic clock, so that a step of the wall
// clock shows while no node is there to ask. The caller holds mu.
func (f *follower) compare(now lease.Moment) {
	if !f.clock.IsZero() {
		earliest := f.clock.Add(now.Mono - f.heard.Mono)
		latest := earliest.Add(f.trip)
		wall := time.Unix(0, now.Wall)
		f.skew = ""
		if wall.Before(earliest.Add(-clockSkew)) || wall.After(latest.Add(clockSkew)) {
			f.skew = fmt.Sprintf("its clock is more than %s off the node's: set both by NTP", clockSkew)
		}
	}
	f.weigh(now)
}
