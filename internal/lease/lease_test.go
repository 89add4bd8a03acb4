package lease_test

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/quashdev/quash/internal/lease"
)

const length = lease.Length(30 * time.Second)

func at(d time.Duration) lease.Moment { return lease.Moment{Wall: int64(d), Mono: d} }

func TestLength(t *testing.T) {
	for _, tt := range []struct {
		length                        lease.Length
		beat, patience, margin, whole time.Duration
	}{
		{lease.Min, time.Second / 6, time.Second / 2, time.Second / 10, 1100 * time.Millisecond},
		{lease.Default, 5 * time.Second, 15 * time.Second, 3 * time.Second, 33 * time.Second},
		{lease.Max, 5 * time.Second, 15 * time.Second, time.Minute, 11 * time.Minute},
	} {
		l := tt.length
		if l.Check() != nil || l.Beat() != tt.beat || l.Patience() != tt.patience || l.Margin() != tt.margin || l.Whole() != tt.whole {
			t.Errorf("%v: %v, beat %v, patience %v, margin %v, whole %v", time.Duration(l), l.Check(), l.Beat(), l.Patience(), l.Margin(), l.Whole())
		}
		if l.Patience()+2*l.Beat() > time.Duration(l) {
			t.Errorf("%v: nothing is left to connect again in", time.Duration(l))
		}
	}
	for _, l := range []lease.Length{-1, 0, lease.Min - 1, lease.Max + 1} {
		if l.Check() == nil {
			t.Errorf("a lease of %v was accepted", time.Duration(l))
		}
	}
}

func TestSlept(t *testing.T) {
	from := lease.Moment{Wall: 1e18, Mono: time.Hour}
	for name, tt := range map[string]struct {
		wall, mono time.Duration
		want       bool
	}{
		"awake":                  {time.Minute, time.Minute, false},
		"slewed":                 {time.Minute, time.Minute - 700*time.Millisecond, false},
		"asleep":                 {time.Minute, time.Minute - 800*time.Millisecond, true},
		"wall clock set back":    {-time.Hour, time.Minute, true},
		"wall clock set forward": {time.Hour, time.Minute, true},
	} {
		to := lease.Moment{Wall: from.Wall + int64(tt.wall), Mono: from.Mono + tt.mono}
		if got := length.Slept(from, to); got != tt.want {
			t.Errorf("%s: slept = %v", name, got)
		}
	}
}

func TestSystem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := lease.System()
		from := clock()
		time.Sleep(time.Minute)
		if to := clock(); to.Mono-from.Mono != time.Minute || to.Wall != time.Now().UnixNano() || length.Slept(from, to) {
			t.Errorf("%+v, a minute after %+v", to, from)
		}
	})
}

// A book that began at position 10 and has the log up to there.
func begun() *lease.Book {
	b := lease.NewBook(length)
	b.Renewed(at(0), 10)
	b.Read(10)
	return b
}

func TestP5GrantFromTheStartOfTheRenewal(t *testing.T) {
	b := begun()
	var h lease.Holder
	b.Acknowledge(&h, 10)
	for _, now := range []time.Duration{0, 29 * time.Second, 30 * time.Second} {
		if got, want := b.Grant(&h, 1, at(now)), time.Duration(length)-now; got != want {
			t.Errorf("grant %v after the renewal began = %v, want %v", now, got, want)
		}
	}
}

func TestP5GrantStandsStillForOneThatLags(t *testing.T) {
	b := begun()
	var h lease.Holder
	b.Acknowledge(&h, 10)
	b.Grant(&h, 1, at(0))
	b.Renewed(at(5*time.Second), 11)
	if got := b.Grant(&h, 1, at(6*time.Second)); got != 24*time.Second {
		t.Errorf("grant without record 11 = %v, want what is left of the first renewal", got)
	}
	b.Acknowledge(&h, 11)
	if got := b.Grant(&h, 1, at(6*time.Second)); got != 29*time.Second {
		t.Errorf("grant with record 11 = %v, want what is left of the second renewal", got)
	}
}

func TestP4NothingGrantedBelowTheFloor(t *testing.T) {
	b := begun()
	b.Renewed(at(0), 10)
	b.Read(12)
	if b.Floor() != 12 {
		t.Fatalf("floor = %d, want 12: nobody holds a lease", b.Floor())
	}
	var h lease.Holder
	b.Acknowledge(&h, 11)
	if got := b.Grant(&h, 1, at(0)); got != 0 {
		t.Errorf("granted %v below the floor", got)
	}
	b.Acknowledge(&h, 12)
	if got := b.Grant(&h, 1, at(0)); got == 0 {
		t.Error("nothing granted at the floor")
	}
}

func TestP4NothingGrantedBeforeARenewal(t *testing.T) {
	b := lease.NewBook(length)
	b.Read(10)
	var h lease.Holder
	b.Acknowledge(&h, 10)
	if got := b.Grant(&h, 1, at(0)); got != 0 {
		t.Errorf("granted %v", got)
	}
}

func TestP4NothingGrantedAfterSleep(t *testing.T) {
	b := begun()
	var h lease.Holder
	b.Acknowledge(&h, 10)
	woken := lease.Moment{Wall: int64(20 * time.Second), Mono: time.Second}
	if got := b.Grant(&h, 1, woken); got != 0 {
		t.Errorf("granted %v by a renewal from before the machine slept", got)
	}
	b.Renewed(woken, 12)
	if b.Floor() != 10 {
		t.Errorf("floor = %d: a later renewal raised it, and nobody has applied that", b.Floor())
	}
}

func TestP4GoodbyeIsOfOneConnection(t *testing.T) {
	b := begun()
	var h lease.Holder
	b.Acknowledge(&h, 10)
	b.Grant(&h, 1, at(0))
	b.Grant(&h, 2, at(0))
	if b.Return(&h, 1) || !b.Holds(&h) {
		t.Fatal("the goodbye of one connection gave back another's grant")
	}
	if !b.Return(&h, 2) || b.Holds(&h) {
		t.Error("the last goodbye left a lease")
	}
	if b.Return(&h, 2) {
		t.Error("a lease was given back twice")
	}
}

func TestP4MarginBeforeALeaseCountsAsOver(t *testing.T) {
	b := begun()
	var h lease.Holder
	b.Acknowledge(&h, 10)
	b.Grant(&h, 1, at(0))
	b.Read(11)
	if got := b.Expire(at(33*time.Second - 1)); len(got) != 0 || b.Floor() != 10 {
		t.Errorf("a lease was over within the margin; floor %d", b.Floor())
	}
	if got := b.Expire(at(33 * time.Second)); len(got) != 1 || got[0] != &h || b.Floor() != 11 {
		t.Errorf("expired %v, floor %d; want the one holder, and 11", got, b.Floor())
	}
}

// A node that forgot what it had granted keeps its floor down until that must
// have ended, and so tells the others.
func TestP4FloorHeld(t *testing.T) {
	b := lease.NewBook(length)
	b.Hold()
	b.Renewed(at(0), 10)
	b.Read(12)
	var h lease.Holder
	b.Acknowledge(&h, 11)
	if got := b.Grant(&h, 1, at(0)); got != 30*time.Second || b.Floor() != 0 {
		t.Errorf("granted %v at floor %d, want a lease at 0", got, b.Floor())
	}
	if b.Release(); b.Floor() != 11 {
		t.Errorf("floor = %d once nothing else can run, want 11", b.Floor())
	}
}

// slowBook does what a Book promises in the plainest way.
type slowBook struct {
	renewals [][2]int64 // began, head
	read     uint64
	floor    uint64
	applied  map[*lease.Holder]uint64
	grants   map[*lease.Holder]map[uint64]time.Duration
}

func (s *slowBook) settle() {
	lowest := uint64(math.MaxUint64)
	for h, grants := range s.grants {
		if len(grants) > 0 {
			lowest = min(lowest, s.applied[h])
		}
	}
	s.floor = max(s.floor, min(s.read, lowest))
}

// A book and its plain twin agree, whatever is done to both.
func TestBook(t *testing.T) { rapid.Check(t, walk) }

func walk(t *rapid.T) {
	b, s := lease.NewBook(length), &slowBook{applied: map[*lease.Holder]uint64{}, grants: map[*lease.Holder]map[uint64]time.Duration{}}
	holders := make([]*lease.Holder, 5)
	for i := range holders {
		holders[i] = &lease.Holder{}
		s.grants[holders[i]] = map[uint64]time.Duration{}
	}
	var now time.Duration
	head := uint64(10)
	draw := func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "n") }
	holder := func() *lease.Holder { return holders[draw(len(holders))] }
	t.Repeat(map[string]func(*rapid.T){
		"time":   func(*rapid.T) { now += time.Duration(draw(12000)) * time.Millisecond },
		"commit": func(*rapid.T) { head += uint64(draw(3)) },
		"read":   func(*rapid.T) { b.Read(head); s.read = head; s.settle() },
		"renew": func(*rapid.T) {
			if b.Renewed(at(now), head); len(s.renewals) == 0 {
				s.floor = head
			}
			s.renewals = append(s.renewals, [2]int64{int64(now), int64(head)})
		},
		"acknowledge": func(*rapid.T) {
			h, position := holder(), uint64(draw(int(s.read)+1))
			b.Acknowledge(h, position)
			s.applied[h] = max(s.applied[h], position)
			s.settle()
		},
		"grant": func(*rapid.T) {
			h, c := holder(), uint64(draw(2))
			want := time.Duration(0)
			for _, r := range s.renewals {
				if until := time.Duration(r[0]) + time.Duration(length); s.applied[h] >= s.floor && uint64(r[1]) <= s.applied[h] && until > now {
					want = until - now
				}
			}
			if got := b.Grant(h, c, at(now)); got != want {
				t.Fatalf("grant = %v, want %v", got, want)
			}
			if want > 0 {
				s.grants[h][c] = max(s.grants[h][c], now+want)
			}
		},
		"return": func(*rapid.T) {
			h, c := holder(), uint64(draw(2))
			held := len(s.grants[h]) > 0
			delete(s.grants[h], c)
			if got, want := b.Return(h, c), held && len(s.grants[h]) == 0; got != want {
				t.Fatalf("return ended the lease: %v, want %v", got, want)
			}
			s.settle()
		},
		"expire": func(*rapid.T) {
			want := 0
			for _, grants := range s.grants {
				held := len(grants) > 0
				for c, until := range grants {
					if until+length.Margin() <= now {
						delete(grants, c)
					}
				}
				if held && len(grants) == 0 {
					want++
				}
			}
			if got := len(b.Expire(at(now))); got != want {
				t.Fatalf("%d leases expired, want %d", got, want)
			}
			s.settle()
		},
		"": func(*rapid.T) {
			if b.Floor() != s.floor {
				t.Fatalf("floor = %d, want %d", b.Floor(), s.floor)
			}
			n := 0
			for h, grants := range s.grants {
				if len(grants) > 0 {
					n++
				}
				until := time.Duration(0)
				for _, g := range grants {
					until = max(until, g)
				}
				if b.Holds(h) != (len(grants) > 0) || h.Until() != until || h.Applied() != s.applied[h] {
					t.Fatalf("holder = %v until %v at %d, want %v until %v at %d", b.Holds(h), h.Until(), h.Applied(), len(grants) > 0, until, s.applied[h])
				}
			}
			if b.Len() != n {
				t.Fatalf("%d holders, want %d", b.Len(), n)
			}
		},
	})
}
