package quash_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quashdev/quash"
)

// A storm of distinct tokens stays within the bound, in what is counted and in
// what the process really holds.
func TestCacheIsBoundedInBytes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const limit = 1 << 20
		n := newNode(t)
		c := n.config()
		c.CacheBytes = limit
		before := heap()
		v, _ := n.open(c)
		var storm sync.WaitGroup
		for g := range 4 {
			storm.Go(func() {
				for i := range 600 {
					token := n.token(claims{"jti": fmt.Sprint(g, "-", i), "note": strings.Repeat("x", i%400)})
					// As a part of a large request, which must not be kept for it.
					request := token + strings.Repeat(" ", 16<<10)
					if _, err := v.Verify(request[:len(token)]); err != nil {
						t.Errorf("verify: %v", err)
					}
				}
			})
		}
		storm.Wait()
		counted, sum, entries := quash.CacheBytes(v)
		if counted != sum || sum > limit || entries < 400 {
			t.Errorf("got %d bytes counted, %d held by %d tokens; want the same, at most %d, and 400 tokens at least", counted, sum, entries, limit)
		}
		// Apart from the cache the verifier and the test hold some hundred kB.
		if grown := heap() - before; grown > limit+limit {
			t.Errorf("the heap grew by %d bytes, want not much more than %d", grown, limit)
		}
		runtime.KeepAlive(v)
	})
}

// Tokens that are in use stay while others are seen that never come again.
func TestAStormDoesNotDriveOutWhatIsInUse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const hot, storm = 200, 4000
		n := newNode(t)
		c := n.config()
		c.CacheBytes = 1 << 20
		v, _ := n.open(c)
		tokens, kept := n.tokens(hot), make([]*quash.Claims, hot)
		misses := 0
		use := func() {
			for i, token := range tokens {
				claims, err := v.Verify(token)
				if err != nil {
					t.Fatal(err)
				}
				if claims != kept[i] {
					misses++
				}
				kept[i] = claims
			}
		}
		use()
		for i := range storm {
			wantAccepted(t, v, n.token(claims{"jti": fmt.Sprint("storm_", i)}), "of the storm")
			if i%100 == 0 {
				use()
			}
		}
		if cold := misses - hot; cold > storm/100*hot/20 {
			t.Errorf("in a storm of %d tokens, %d of %d uses of others found them gone, want at most 5 in 100", storm, cold, storm/100*hot)
		}
	})
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestACacheTooSmallForOneTokenIsNoCache(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		c := n.config()
		c.CacheBytes = 1
		v, _ := n.open(c)
		for range 3 {
			wantAccepted(t, v, n.token(nil), "without a cache")
		}
		if counted, _, entries := quash.CacheBytes(v); counted != 0 || entries != 0 {
			t.Errorf("got %d tokens of %d bytes, want none", entries, counted)
		}
	})
}

func TestOnlyTokensThatVerifiedGetIntoTheCache(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		v, _ := n.open(n.config())
		good := n.token(nil)
		for _, token := range []string{
			good[:len(good)-4] + "AAAA", n.token(claims{"aud": "billing"}), n.token(claims{"exp": time.Now().Unix()}), n.token(claims{"sub": 7}), "x",
		} {
			for range 2 {
				if _, err := v.Verify(token); err == nil {
					t.Errorf("%.20s…: accepted", token)
				}
			}
		}
		if _, _, entries := quash.CacheBytes(v); entries != 0 {
			t.Errorf("the cache holds %d tokens, want none", entries)
		}
		wantAccepted(t, v, good, "the good one")
		wantError(t, v, good[:len(good)-4]+"AAAA", quash.ErrInvalid, "another signature beside the good one")
	})
}
