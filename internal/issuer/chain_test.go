package issuer_test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/sqlite"
)

const chainLength = 1205 // more than VerifyLog reads at once

// chainOf returns the path of a closed database with a log of chainLength
// records, the first 1,002 of them pruned.
func chainOf(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "quash.db")
	s := openChain(t, path)
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	_, err := s.Update(t.Context(), func(tx issuer.Tx) error {
		for n := range chainLength {
			r := issuer.Revocation{Issuer: "https://issuer.example", Claim: "sub", Value: fmt.Sprint("u", n), Time: at, Event: "logout", Actor: "user"}
			if err := tx.AppendRevocation(r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Prune(t.Context(), at.Add(time.Hour), time.Hour, 1002); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func openChain(t *testing.T, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// tamper changes the database behind the store's back.
func tamper(t *testing.T, path, statements string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), statements); err != nil {
		t.Fatalf("%s: %v", statements, err)
	}
}

// P11: no record can be changed, taken out, moved or added unseen.
func TestVerifyLogFindsTheFirstBreak(t *testing.T) {
	swap := func(table string, a, b int) string {
		return fmt.Sprintf(`UPDATE %[1]s SET position = -1 WHERE position = %[2]d; UPDATE %[1]s SET position = %[2]d WHERE position = %[3]d;
			UPDATE %[1]s SET position = %[3]d WHERE position = -1`, table, a, b)
	}
	whole, err := os.ReadFile(chainOf(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		sql  string
		want *issuer.LogBreak
	}{
		"nothing":              {`SELECT 1`, nil},
		"actor":                {`UPDATE revocation SET actor = 'somebody' WHERE position = 1100`, &issuer.LogBreak{Position: 1100, Flaw: issuer.Changed}},
		"reason, pruned":       {`UPDATE revocation_archive SET reason = 'none' WHERE position = 7`, &issuer.LogBreak{Position: 7, Flaw: issuer.Changed}},
		"time":                 {`UPDATE revocation SET time = time + 1 WHERE position = 1205`, &issuer.LogBreak{Position: 1205, Flaw: issuer.Changed}},
		"value":                {`UPDATE revocation SET value = 'other' WHERE position = 1003`, &issuer.LogBreak{Position: 1003, Flaw: issuer.Changed}},
		"forget":               {`UPDATE revocation SET forget = 1 WHERE position = 1003`, &issuer.LogBreak{Position: 1003, Flaw: issuer.Changed}},
		"digest":               {`UPDATE revocation SET digest = zeroblob(32) WHERE position = 1003`, &issuer.LogBreak{Position: 1003, Flaw: issuer.Changed}},
		"one taken out":        {`DELETE FROM revocation WHERE position = 1100`, &issuer.LogBreak{Position: 1100, Flaw: issuer.Missing}},
		"first taken out":      {`DELETE FROM revocation_archive WHERE position = 1`, &issuer.LogBreak{Position: 1, Flaw: issuer.Missing}},
		"last taken out":       {`DELETE FROM revocation WHERE position = 1205`, &issuer.LogBreak{Position: 1205, Flaw: issuer.Missing}},
		"all taken out":        {`DELETE FROM revocation; DELETE FROM revocation_archive`, &issuer.LogBreak{Position: 1, Flaw: issuer.Missing}},
		"two swapped":          {swap("revocation", 1100, 1200), &issuer.LogBreak{Position: 1100, Flaw: issuer.Reordered, Found: 1200}},
		"neighbours swapped":   {swap("revocation_archive", 10, 11), &issuer.LogBreak{Position: 10, Flaw: issuer.Reordered, Found: 11}},
		"one doubled":          {`INSERT INTO revocation SELECT * FROM revocation_archive WHERE position = 50`, &issuer.LogBreak{Position: 51, Flaw: issuer.Inserted}},
		"head's digest":        {`UPDATE meta SET digest = zeroblob(32)`, &issuer.LogBreak{Position: 1205, Flaw: issuer.Changed}},
		"one taken out, moved": {`DELETE FROM revocation WHERE position = 1204; UPDATE revocation SET position = 1204 WHERE position = 1205`, &issuer.LogBreak{Position: 1204, Flaw: issuer.Changed}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "quash.db")
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
			tamper(t, path, c.sql)
			s := openChain(t, path)
			defer s.Close()
			report, err := issuer.VerifyLog(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, report.Break); d != "" {
				t.Errorf("break (-want +got):\n%s", d)
			}
			want := uint64(chainLength)
			if c.want != nil && name != "head's digest" {
				want = c.want.Position - 1
			}
			if report.Checked != want || report.Head.Position != chainLength {
				t.Errorf("got %d of %d records checked, want %d of %d", report.Checked, report.Head.Position, want, chainLength)
			}
		})
	}
}

// P11: the beginning of an epoch is a part of the chain.
func TestVerifyLogFindsAWrongEpoch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "quash.db")
	s := openChain(t, path)
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	var epochs []issuer.Epoch
	var head uint64
	for range 3 {
		c, err := s.Update(t.Context(), func(tx issuer.Tx) error {
			for range 2 {
				if err := tx.AppendRevocation(issuer.Revocation{Issuer: "https://issuer.example", Claim: "sub", Value: "u", Time: at}); err != nil {
					return err
				}
			}
			e, err := tx.BeginEpoch("another log", "a fail-over")
			epochs = append(epochs, e)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		head = c.Head.Position
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	second := epochs[1]
	changed := &issuer.LogBreak{Position: second.Begin.Position, Flaw: issuer.Changed, Epoch: 3}
	for name, c := range map[string]struct {
		sql     string
		want    *issuer.LogBreak
		checked uint64
	}{
		"nothing":         {`SELECT 1`, nil, 6},
		"reason":          {`UPDATE epoch SET reason = 'none' WHERE number = 3`, changed, 4},
		"time":            {`UPDATE epoch SET time = time + 1 WHERE number = 3`, changed, 4},
		"log":             {`UPDATE epoch SET log_id = 'other' WHERE number = 3`, changed, 4},
		"digest before":   {`UPDATE epoch SET before_digest = zeroblob(32) WHERE number = 3`, changed, 4},
		"digest":          {`UPDATE epoch SET begin_digest = zeroblob(32) WHERE number = 3`, changed, 4},
		"taken out":       {`DELETE FROM epoch WHERE number = 2`, changed, 2},
		"last taken out":  {`DELETE FROM epoch WHERE number = 4`, &issuer.LogBreak{Position: epochs[2].Before.Position + 1, Flaw: issuer.Missing}, 6},
		"first record":    {`UPDATE revocation SET actor = 'x' WHERE position = 1`, &issuer.LogBreak{Position: 1, Flaw: issuer.Changed}, 0},
		"record between":  {fmt.Sprintf(`UPDATE revocation SET actor = 'x' WHERE position = %d`, second.Before.Position), &issuer.LogBreak{Position: second.Before.Position, Flaw: issuer.Changed}, 3},
		"record missing":  {fmt.Sprintf(`DELETE FROM revocation WHERE position = %d`, second.Before.Position), &issuer.LogBreak{Position: second.Before.Position, Flaw: issuer.Missing}, 3},
		"log of the meta": {`UPDATE meta SET epoch = 7`, &issuer.LogBreak{Position: head, Flaw: issuer.Changed, Epoch: 7}, 6},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "quash.db")
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
			tamper(t, path, c.sql)
			s := openChain(t, path)
			defer s.Close()
			report, err := issuer.VerifyLog(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, report.Break); d != "" || report.Checked != c.checked {
				t.Errorf("%d records checked, want %d; break (-want +got):\n%s", report.Checked, c.checked, d)
			}
		})
	}
}
