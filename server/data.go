package server

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	databaseFile = "quash.db"
	secretFile   = "secret"
	adminKeyFile = "admin.key"
)

// prepareData makes the data directory and reads the secret, making one where
// there is neither a secret nor a database that was made with one.
func prepareData(c *Config) error {
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	info, err := os.Stat(c.Data)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("data directory %s: others may look into it; run chmod 700 %s", c.Data, c.Data)
	}
	if c.Secret != nil {
		return nil
	}
	path := filepath.Join(c.Data, secretFile)
	c.Secret, err = readSecret(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(filepath.Join(c.Data, databaseFile)); err == nil {
		return fmt.Errorf("%s is gone, and without it neither signing keys nor refresh tokens can be read: restore it, or give the secret by configuration", path)
	}
	c.Secret = make([]byte, 32)
	rand.Read(c.Secret)
	return writeOnce(path, base64.StdEncoding.EncodeToString(c.Secret)+"\n")
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
