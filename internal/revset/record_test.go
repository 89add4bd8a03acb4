package revset_test

import (
	"encoding/hex"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/internal/revset"
)

// The expected key is what sha256sum makes of "secret", 0x00000016,
// "https://issuer.example", 0x00000003, "sub", 0x00000003, "u_7".
func TestKeyOf(t *testing.T) {
	got := revset.KeyOf([]byte("secret"), "https://issuer.example", "sub", "u_7")
	if got, want := hex.EncodeToString(got[:]), "82f8802c38b3da8c5824465e14611135"; got != want {
		t.Errorf("KeyOf = %s, want %s", got, want)
	}
}

// No two different pairs run together into one.
func TestP6KeyOfKeepsStringsApart(t *testing.T) {
	seen := make(map[revset.Key][3]string)
	for _, s := range [][3]string{
		{"i", "sub", "u"},
		{"is", "ub", "u"},
		{"i", "su", "bu"},
		{"i", "subu", ""},
		{"", "isub", "u"},
		{"i", "sub", "u\x00"},
		{"i", "sub", ""},
		{"", "", ""},
	} {
		k := revset.KeyOf([]byte("secret"), s[0], s[1], s[2])
		if was, ok := seen[k]; ok {
			t.Errorf("%q and %q have the same key", was, s)
		}
		seen[k] = s
	}
	if revset.KeyOf([]byte("other"), "i", "sub", "u") == revset.KeyOf([]byte("secret"), "i", "sub", "u") {
		t.Error("the secret makes no difference")
	}
}

func TestMergeTakesTheGreaterOfEachField(t *testing.T) {
	k := keys(1, 1)[0]
	a := revset.Record{Position: 7, Key: k, Before: revset.Forever, NotBefore: 0, Forget: 100}
	b := revset.Record{Position: 9, Key: k, Before: 9, NotBefore: 50, Forget: 60}
	want := revset.Record{Position: 9, Key: k, Before: revset.Forever, NotBefore: 50, Forget: 100}
	if diff := cmp.Diff(want, a.Merge(b)); diff != "" {
		t.Errorf("a.Merge(b) (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, b.Merge(a)); diff != "" {
		t.Errorf("b.Merge(a) (-want +got):\n%s", diff)
	}
}
