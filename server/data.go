package server

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/quashdev/quash/internal/issuer"
)

const (
	databaseFile = "quash.db"
	secretFile   = "secret"
	adminKeyFile = "admin.key"
	pendingFile  = "admin.key.pending" // there while the first admin key is made
)

// makeData makes the data directory.
func makeData(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("data directory %s: others may look into it; run chmod 700 %s", path, path)
	}
	return nil
}

// findSecret reads the secret, or makes one where nothing in the store was made
// with another.
func (s *Server) findSecret(ctx context.Context) (err error) {
	if s.cfg.Secret != nil {
		return nil
	}
	path := filepath.Join(s.cfg.Data, secretFile)
	s.cfg.Secret, err = readSecret(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var keys []issuer.SigningKey
	err = s.store.View(ctx, func(r issuer.Reader) (err error) {
		keys, err = r.SigningKeys()
		return err
	})
	if err != nil {
		return err
	}
	if len(keys) > 0 && s.cfg.Store != "" {
		return fmt.Errorf("another node has made the secret, without which neither signing keys nor refresh tokens can be read: copy its file to %s, or give both the same by configuration", path)
	}
	if len(keys) > 0 {
		return fmt.Errorf("%s is gone, and without it neither signing keys nor refresh tokens can be read: restore it, or give the secret by configuration", path)
	}
	s.cfg.Secret = make([]byte, 32)
	rand.Read(s.cfg.Secret)
	if s.cfg.Store != "" {
		s.cfg.Logger.Warn("made a secret, which every other node needs too: copy it there, and where it outlives this machine", "file", path)
	}
	return writeOnce(path, base64.StdEncoding.EncodeToString(s.cfg.Secret)+"\n")
}

func readSecret(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	return ParseSecret(string(text))
}

// ParseSecret reads a secret as its file and the configuration have it: 32
// octets in base64.
func ParseSecret(text string) ([]byte, error) {
	secret, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(secret) != 32 {
		return nil, errors.New("secret: want 32 octets in base64; `openssl rand -base64 32` makes some")
	}
	return secret, nil
}

// writeOnce writes a file that only its owner may read and that must outlive
// a loss of power, as a whole or not at all.
func writeOnce(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
