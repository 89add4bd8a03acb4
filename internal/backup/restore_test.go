package backup_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/internal/backup"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/sqlite"
)

// A backup of version 1 knows no scope clients. Its keys get it as those of a
// database of before do: who has every other.
func TestKeysOfVersion1GetTheScopeOfClients(t *testing.T) {
	keys := map[string][]string{
		"all":      {"revoke", "sessions", "accounts", "audit", "keys", "backup"},
		"all-feed": {"feed", "backup", "keys", "audit", "accounts", "sessions", "revoke"},
		"most":     {"revoke", "sessions", "accounts", "audit", "backup"},
		"feed":     {"feed"},
	}
	for version, added := range map[int][]string{1: {"clients"}, 2: nil} {
		lines := bytes.SplitAfter(whole, []byte("\n"))
		lines[0] = bytes.Replace(lines[0], []byte(`"version":1`), fmt.Appendf(nil, `"version":%d`, version), 1)
		for id, scopes := range keys {
			none := strings.Repeat("A", 43) + "="
			lines = slices.Insert(lines, 3, fmt.Appendf(nil, `{"api_key":{"ID":%q,"Name":%q,"Scopes":["%s"],"Hash":%q,"Previous":%q}}`+"\n", id, id, strings.Join(scopes, `","`), none, none))
		}
		text := bytes.Join(lines, nil)
		s, err := sqlite.Open(t.Context(), sqlite.Config{Path: ":memory:"})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := backup.Restore(t.Context(), s, file(text, text), backup.Options{}); err != nil {
			t.Fatal(err)
		}
		got := map[string][]issuer.Scope{}
		if err := s.View(t.Context(), func(r issuer.Reader) error {
			all, err := r.APIKeys()
			for _, k := range all {
				got[k.ID] = k.Scopes
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		want := map[string][]issuer.Scope{}
		for id, scopes := range keys {
			if strings.HasPrefix(id, "all") {
				scopes = append(slices.Clone(scopes), added...)
			}
			for _, s := range scopes {
				want[id] = append(want[id], issuer.Scope(s))
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("version %d: scopes (-want +got):\n%s", version, diff)
		}
	}
}
