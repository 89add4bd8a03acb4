package server

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificate serves a key pair from two files and takes up new ones when
// they change. A pair that cannot be read leaves the one before it in use.
type certificate struct {
	certFile, keyFile string
	logger            *slog.Logger

	mu      sync.Mutex
	pair    *tls.Certificate
	checked time.Time
	changed [2]time.Time // modification times of the files that pair came from
}

// checkEvery is how often the files are looked at, while there are handshakes.
const checkEvery = 5 * time.Second

func loadCertificate(certFile, keyFile string, logger *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, logger: logger}
	return c, c.reload()
}

func (c *certificate) reload() error {
	var times [2]time.Time
	for i, name := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return fmt.Errorf("TLS: %w", err)
		}
		times[i] = info.ModTime()
	}
	if c.pair != nil && times == c.changed {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	c.pair, c.changed = &pair, times
	return nil
}

// get is a tls.Config's GetCertificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) >= checkEvery {
		c.checked = time.Now()
		if err := c.reload(); err != nil {
			c.logger.Error("the certificate could not be read again; the one before stays in use", "err", err)
		}
	}
	return c.pair, nil
}
