package jws_test

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/internal/jws"
)

// FuzzParseKeySet checks that a set that ParseKeySet takes is one by a check
// that shares no code with it, holds nothing secret and no kid twice, and reads
// back what it writes.
func FuzzParseKeySet(f *testing.F) {
	for _, v := range makeKeySets() {
		if len(v.JWKS) < 4000 {
			f.Add([]byte(v.JWKS))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		set, err := jws.ParseKeySet(text)
		if err != nil {
			if !errors.Is(err, jws.ErrMalformed) {
				t.Fatalf("%q: got %v, want ErrMalformed", text, err)
			}
			return
		}
		kids := kidsOf(set)
		checkSet(t, text, kids)
		again, err := jws.ParseKeySet(must(json.Marshal(set)))
		if err != nil {
			t.Fatalf("%q: what is written of it is refused: %v", text, err)
		}
		if diff := cmp.Diff(kids, kidsOf(again)); diff != "" {
			t.Errorf("%q: read again (-first +again):\n%s", text, diff)
		}
	})
}

func checkSet(t *testing.T, text []byte, usable []string) {
	t.Helper()
	var set map[string]json.RawMessage
	var keys []map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(text, &set), json.Unmarshal(set["keys"], &keys)); err != nil || len(text) > jws.MaxKeySet {
		t.Fatalf("took %q: %v", text, err)
	}
	var kids []string
	for _, k := range keys {
		for _, secret := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
			if _, ok := k[secret]; ok {
				t.Errorf("took %q, which has the member %s", text, secret)
			}
		}
		var kid string
		if json.Unmarshal(k["kid"], &kid) == nil && kid != "" {
			kids = append(kids, kid)
		}
	}
	for i, kid := range kids {
		if slices.Contains(kids[:i], kid) {
			t.Errorf("took %q, which has the kid %q twice", text, kid)
		}
	}
	for _, kid := range usable {
		if !slices.Contains(kids, kid) {
			t.Errorf("%q: there is no key %q in it", text, kid)
		}
	}
}
