package feed_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/revset"
)

func records(positions ...uint64) []revset.Record {
	var all []revset.Record
	for _, p := range positions {
		key := revset.KeyOf(make([]byte, 32), "iss", "sid", string(rune('a'+p)))
		all = append(all, revset.Record{Position: p, Key: key, Before: revset.Forever, NotBefore: 7, Forget: 9})
	}
	return all
}

// body checks the kind of a message and returns its body.
func body(t *testing.T, msg []byte, want feed.Kind) []byte {
	t.Helper()
	kind, body, err := feed.Split(msg)
	if err != nil || kind != want {
		t.Fatalf("kind: got %d, %v, want %d", kind, err, want)
	}
	return body
}

func TestEveryMessageReadsBack(t *testing.T) {
	m := feed.Mark{Position: 6, Digest: feed.Digest{1, 2, 3}}
	sent := records(4, 5, 6)

	gotMark, got, err := feed.DecodeRecords(nil, body(t, feed.AppendRecords(nil, m, sent), feed.KindRecords))
	if err != nil || gotMark != m || !cmp.Equal(got, sent) {
		t.Errorf("records: got %v %v, %v", gotMark, got, err)
	}
	part, err := feed.DecodeSnapshot(nil, body(t, feed.AppendSnapshot(nil, sent), feed.KindSnapshot))
	if err != nil || !cmp.Equal(part, sent) {
		t.Errorf("snapshot: got %v, %v", part, err)
	}
	if got, err := feed.DecodeMark(body(t, feed.AppendMark(nil, m), feed.KindMark)); err != nil || got != m {
		t.Errorf("mark: got %v, %v", got, err)
	}
	pong := feed.Pong{Mark: m, Stamp: 1 << 60, Clock: -1}
	if got, err := feed.DecodePong(body(t, feed.AppendPong(nil, pong), feed.KindPong)); err != nil || got != pong {
		t.Errorf("pong: got %v, %v", got, err)
	}
	ping := feed.Ping{Applied: 6, Stamp: 1 << 60}
	if got, err := feed.DecodePing(body(t, feed.AppendPing(nil, ping), feed.KindPing)); err != nil || got != ping {
		t.Errorf("ping: got %v, %v", got, err)
	}
	msg, err := feed.AppendJSON(nil, feed.KindBye, feed.Bye{Code: feed.ByeSlow, Detail: "too slow"})
	if err != nil {
		t.Fatal(err)
	}
	var bye feed.Bye
	if err := json.Unmarshal(body(t, msg, feed.KindBye), &bye); err != nil || bye.Code != feed.ByeSlow {
		t.Errorf("bye: got %v, %v", bye, err)
	}
}

// TestMalformedMessagesAreErrFormat takes what is one octet short or long, out
// of order, with a gap, at a wrong mark, or at no possible position.
func TestMalformedMessagesAreErrFormat(t *testing.T) {
	m := feed.Mark{Position: 6}
	whole := func(rs ...revset.Record) []byte { return feed.AppendRecords(nil, m, rs)[1:] }
	decodeRecords := func(b []byte) error { _, _, err := feed.DecodeRecords(nil, b); return err }
	decodeSnapshot := func(b []byte) error { _, err := feed.DecodeSnapshot(nil, b); return err }
	decodeMark := func(b []byte) error { _, err := feed.DecodeMark(b); return err }
	decodePong := func(b []byte) error { _, err := feed.DecodePong(b); return err }
	decodePing := func(b []byte) error { _, err := feed.DecodePing(b); return err }
	good := whole(records(5, 6)...)
	for name, c := range map[string]struct {
		decode func([]byte) error
		body   []byte
	}{
		"records, short":           {decodeRecords, good[:len(good)-1]},
		"records, long":            {decodeRecords, append(good[:len(good):len(good)], 0)},
		"records, no mark":         {decodeRecords, good[:39]},
		"records, none":            {decodeRecords, whole()},
		"records, gap":             {decodeRecords, whole(records(4, 6)...)},
		"records, disorder":        {decodeRecords, whole(records(6, 5)...)},
		"records, mark beyond":     {decodeRecords, whole(records(4, 5)...)},
		"records, more than there": {decodeRecords, whole(records(0, 1, 2, 3, 4, 5, 6)...)},
		"snapshot, empty":          {decodeSnapshot, nil},
		"snapshot, short":          {decodeSnapshot, feed.AppendSnapshot(nil, records(1))[1:40]},
		"snapshot, position 0":     {decodeSnapshot, feed.AppendSnapshot(nil, records(0))[1:]},
		"snapshot, beyond 2^53":    {decodeSnapshot, feed.AppendSnapshot(nil, records(revset.MaxPosition))[1:]},
		"mark, short":              {decodeMark, make([]byte, 39)},
		"mark, long":               {decodeMark, make([]byte, 41)},
		"pong, short":              {decodePong, make([]byte, 55)},
		"ping, long":               {decodePing, make([]byte, 17)},
	} {
		if err := c.decode(c.body); !errors.Is(err, feed.ErrFormat) {
			t.Errorf("%s: got %v, want ErrFormat", name, err)
		}
	}
	if _, _, err := feed.Split(nil); !errors.Is(err, feed.ErrFormat) {
		t.Errorf("an empty message: got %v, want ErrFormat", err)
	}
}

// TestRecordsAreThoseOfTheVectors encodes the records that every
// implementation reads.
func TestRecordsAreThoseOfTheVectors(t *testing.T) {
	text, err := os.ReadFile("../../testdata/vectors/revocations.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct {
		Records []struct{ Hex string }
	}
	if err := json.Unmarshal(text, &vectors); err != nil || len(vectors.Records) == 0 {
		t.Fatalf("%d records, %v", len(vectors.Records), err)
	}
	for _, v := range vectors.Records {
		octets, err := hex.DecodeString(v.Hex)
		if err != nil {
			t.Fatal(err)
		}
		got, err := feed.DecodeSnapshot(nil, octets)
		if err != nil || len(got) != 1 {
			t.Fatalf("%s: got %v, %v", v.Hex, got, err)
		}
		if again := hex.EncodeToString(feed.AppendRecord(nil, got[0])); again != v.Hex {
			t.Errorf("got %s, want %s", again, v.Hex)
		}
	}
}

// TestDigestCoversEverything changes each part of what a digest stands for.
func TestDigestCoversEverything(t *testing.T) {
	r, evidence := records(1)[0], sha256.Sum256([]byte("who and why"))
	want := feed.Digest{}.Next(r, evidence)
	octets := sha256.Sum256(append(append(make([]byte, 32), feed.AppendRecord(nil, r)...), evidence[:]...))
	if want != feed.Digest(octets) {
		t.Error("the digest is not the SHA-256 of the one before, the record and the evidence")
	}
	other := r
	other.NotBefore++
	for name, got := range map[string]feed.Digest{
		"the record":      feed.Digest{}.Next(other, evidence),
		"the evidence":    feed.Digest{}.Next(r, sha256.Sum256(nil)),
		"what came first": feed.Digest{1}.Next(r, evidence),
	} {
		if got == want {
			t.Errorf("the digest does not cover %s", name)
		}
	}
	if got, err := feed.ParseDigest(want.String()); err != nil || got != want {
		t.Errorf("parse: got %v, %v", got, err)
	}
	for _, bad := range []string{"", "00", want.String() + "00", want.String()[:62] + "zz"} {
		if _, err := feed.ParseDigest(bad); err == nil {
			t.Errorf("%q was taken for a digest", bad)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(feed.AppendRecords(nil, feed.Mark{Position: 2}, records(1, 2)))
	f.Add(feed.AppendSnapshot(nil, records(9)))
	f.Add(feed.AppendMark(nil, feed.Mark{Position: 9}))
	f.Add(feed.AppendPong(nil, feed.Pong{}))
	f.Add(feed.AppendPing(nil, feed.Ping{Applied: 3}))
	f.Fuzz(func(t *testing.T, msg []byte) {
		kind, body, err := feed.Split(msg)
		if err != nil {
			return
		}
		var again []byte
		switch kind {
		case feed.KindRecords:
			var m feed.Mark
			var rs []revset.Record
			m, rs, err = feed.DecodeRecords(nil, body)
			again = feed.AppendRecords(nil, m, rs)
		case feed.KindSnapshot:
			var rs []revset.Record
			rs, err = feed.DecodeSnapshot(nil, body)
			again = feed.AppendSnapshot(nil, rs)
		case feed.KindMark:
			var m feed.Mark
			m, err = feed.DecodeMark(body)
			again = feed.AppendMark(nil, m)
		case feed.KindPong:
			var p feed.Pong
			p, err = feed.DecodePong(body)
			again = feed.AppendPong(nil, p)
		case feed.KindPing:
			var p feed.Ping
			p, err = feed.DecodePing(body)
			again = feed.AppendPing(nil, p)
		default:
			return
		}
		if err == nil && string(again) != string(msg) {
			t.Errorf("%x was taken for %x", msg, again)
		}
	})
}
