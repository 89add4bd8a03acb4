package issuer_test

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

func sealed() (list []issuer.Revocation, b issuer.Batch) {
	l := issuer.Log{HashSecret: make([]byte, 32), MaxLifetime: time.Hour}
	for _, r := range []issuer.Revocation{
		{Issuer: "https://a.example", Claim: "sid", Value: "s_1", Time: time.UnixMilli(1_700_000_000_123).UTC(), Event: "logout", Actor: "user"},
		{},
		{Claim: "kid", Value: "1:a\x00,", Time: time.UnixMilli(-1).UTC(), Reason: "stolen: 2:", Before: revset.Forever, NotBefore: 1<<32 - 1, Keep: true},
	} {
		l.Head = r.Seal(l)
		list, b = append(list, r), b.Append(&r)
	}
	return list, b
}

func TestABatchIsWhatWasAppended(t *testing.T) {
	want, b := sealed()
	var got []issuer.Revocation
	if err := b.Revocations(func(r issuer.Revocation) error { got = append(got, r); return nil }); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("revocations: got %+v, %v, want %+v", got, err, want)
	}
	n := 0
	err := b.Records(func(r revset.Record, d feed.Digest) error {
		if r != want[n].Record() || d != want[n].Digest {
			t.Errorf("record %d: got %+v, %s, want %+v", n, r, d, want[n])
		}
		n++
		return nil
	})
	if err != nil || n != len(want) {
		t.Errorf("records: got %d, %v, want %d", n, err, len(want))
	}
	enough := errors.New("enough")
	if err := b.Revocations(func(issuer.Revocation) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("got %v, want what the function said", err)
	}
}

// A batch that was cut off anywhere, or of which an octet is another, is an error
// or other revocations: never those, and never a panic.
func TestABatchThatWasChanged(t *testing.T) {
	want, whole := sealed()
	read := func(b issuer.Batch) (list []issuer.Revocation, err error) {
		err = b.Revocations(func(r issuer.Revocation) error { list = append(list, r); return nil })
		return list, err
	}
	for n := range whole {
		if got, err := read(whole[:n]); err == nil && len(got) == len(want) {
			t.Errorf("the first %d octets: got all", n)
		}
		for _, bit := range []byte{1, 0x80} {
			changed := append(issuer.Batch(nil), whole...)
			changed[n] ^= bit
			if got, err := read(changed); err == nil && reflect.DeepEqual(got, want) {
				t.Errorf("octet %d changed by %#x: got the same", n, bit)
			}
		}
	}
}
