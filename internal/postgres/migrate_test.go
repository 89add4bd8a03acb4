package postgres_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/pgtest"
	"github.com/quashdev/quash/internal/postgres"
	"github.com/quashdev/quash/internal/revset"
)

// P1: what a log held when each record was a row of its own, it holds in batches.
func TestP1TheLogOutlivesItsMigration(t *testing.T) {
	t.Parallel()
	url := pgtest.Start(t)
	db := connect(t, url)
	if err := postgres.MigrateTo(t.Context(), db, 4); err != nil {
		t.Fatal(err)
	}
	l := issuer.Log{MaxLifetime: time.Hour}
	if err := db.QueryRow(t.Context(), `SELECT hash_secret FROM quash.meta`).Scan(&l.HashSecret); err != nil {
		t.Fatal(err)
	}
	at := time.UnixMilli(1_700_000_000_123).UTC()
	want := []issuer.Revocation{
		{Issuer: "https://a.example", Claim: "sid", Value: "s_1", Time: at, Event: "logout", Actor: "user"},
		{Issuer: "https://a.example", Claim: "kid", Value: "k:1", Time: at, Event: "key", Actor: "admin", Reason: "stolen: \u2014 yes", Before: revset.Forever, Keep: true},
		{Issuer: "https://b.example", Claim: "sub", Value: "ä", Time: at, Event: "revoked", Actor: "admin", NotBefore: 4_000_000_000},
	}
	for i := range want {
		r := &want[i]
		l.Head = r.Seal(l)
		table := "revocation"
		if i == 0 {
			table, l.Pruned = "revocation_archive", l.Head
		}
		_, err := db.Exec(t.Context(), `INSERT INTO quash.`+table+` (position, issuer, claim, value, before, not_before, keep, time, event, actor, reason, key, forget, digest)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`, int64(r.Position), r.Issuer, r.Claim, r.Value, int64(r.Before), int64(r.NotBefore), r.Keep,
			r.Time.UnixMilli(), r.Event, r.Actor, r.Reason, r.Key[:], int64(r.Forget), r.Digest[:])
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := db.Exec(t.Context(), `UPDATE quash.meta SET head = $1, digest = $2, pruned = $3, pruned_digest = $4, max_lifetime = $5`,
		int64(l.Head.Position), l.Head.Digest[:], int64(l.Pruned.Position), l.Pruned.Digest[:], int64(l.MaxLifetime))
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, url)
	err = s.View(t.Context(), func(r issuer.Reader) error {
		got, err := r.History(0, 10)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("history: got %+v, want %+v", got, want)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if report, err := issuer.VerifyLog(t.Context(), s); err != nil || report.Break != nil || report.Checked != uint64(len(want)) {
		t.Errorf("the chain: got %+v, %v, want %d whole", report, err, len(want))
	}
	tail, err := s.Tail(t.Context(), feed.Mark{Position: 1}, 10)
	if err != nil || len(tail.Records) != 2 || tail.At != l.Pruned || tail.Mark != l.Head {
		t.Errorf("tail: got %+v, %v", tail, err)
	}
}
