package server

import (
	"crypto/tls"
	"log/slog"
)

// LoadCertificate returns what a listener's tls.Config has as GetCertificate.
func LoadCertificate(certFile, keyFile string, logger *slog.Logger) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	c, err := loadCertificate(certFile, keyFile, logger)
	if err != nil {
		return nil, err
	}
	return c.get, nil
}
