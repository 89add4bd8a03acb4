package server

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/quashdev/quash/internal/issuer"
)

// AdminKey returns the secret of the first admin key, at the first start, and
// nothing later. It is also in the file that [Server.AdminKeyFile] names.
func (s *Server) AdminKey() string { return s.adminKey }

// AdminKeyFile names the file that the first admin key was written to.
func (s *Server) AdminKeyFile() string { return filepath.Join(s.cfg.Data, adminKeyFile) }

// firstAdminKey makes an admin key with every scope where there is no key at
// all, or gives it another secret where a start on this data directory was cut
// off before the first was written down.
func (s *Server) firstAdminKey(ctx context.Context) error {
	keys, err := s.issuer.APIKeys(ctx)
	if err != nil {
		return err
	}
	pending := filepath.Join(s.cfg.Data, pendingFile)
	by := issuer.Actor{Name: "system", Scopes: issuer.AdminScopes}
	switch {
	case len(keys) == 0:
		if err := writeOnce(pending, ""); err != nil {
			return err
		}
		_, s.adminKey, err = s.issuer.CreateAPIKey(ctx, by, "admin", issuer.AdminScopes)
		if refused := (*issuer.Error)(nil); errors.As(err, &refused) && refused.Code == issuer.CodeConflict {
			return os.Remove(pending) // another node was faster
		}
	case len(keys) == 1 && slices.Contains(keys[0].Scopes, issuer.ScopeKeys) && keys[0].LastUsed.IsZero() && s.adminKeyLost(pending):
		_, s.adminKey, err = s.issuer.ReplaceAPIKey(ctx, by, keys[0].ID, 0)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	if err := writeOnce(s.AdminKeyFile(), s.adminKey+"\n"); err != nil {
		return err
	}
	return os.RemoveAll(pending)
}

// adminKeyLost says whether nobody can know the key's secret: where others
// share the store, another node may have written it down.
func (s *Server) adminKeyLost(pending string) bool {
	return exists(pending) || s.cfg.Store == "" && !exists(s.AdminKeyFile())
}

// RecoveredKey is an API key with its secret.
type RecoveredKey struct {
	ID, Name string
	Scopes   []string
	Created  time.Time
	Secret   string
}

// RecoverAdminKey makes a key with a name and an administrator's scopes in the
// store that c names: for whoever has lost every such key, and has the store. A
// server must have run on it. None may have an embedded one open; nodes that
// share the other may run. The audit has it as the doing of "recovery".
func RecoverAdminKey(ctx context.Context, c Config, name string) (RecoveredKey, error) {
	store, err := openExisting(ctx, c)
	if err != nil {
		return RecoveredKey{}, err
	}
	k, secret, err := issuer.RecoverAPIKey(ctx, store, name)
	_ = store.Close() // the key is committed or not, whatever this says
	if err != nil {
		return RecoveredKey{}, err
	}
	made := RecoveredKey{ID: k.ID, Name: k.Name, Created: k.Created, Secret: secret}
	for _, s := range k.Scopes {
		made.Scopes = append(made.Scopes, string(s))
	}
	return made, nil
}
