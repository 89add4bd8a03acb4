package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/server"
)

// TestTLS serves both listeners over TLS only.
func TestTLS(t *testing.T) {
	cfg := config(t)
	dir := t.TempDir()
	cfg.TLSCert, cfg.TLSKey = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	first := writeCertificate(t, cfg, 1)
	roots := x509.NewCertPool()
	roots.AddCert(first)

	srv, err := server.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = srv.Run(t.Context()) }()
	trusting := &tls.Config{RootCAs: roots}
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: trusting}}
	admin, err := client.New(client.Config{URL: "https://" + cfg.Private, Key: srv.AdminKey(), HTTP: web})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, admin)
	key, err := admin.Admin().CreateKey(t.Context(), client.NewKey{Name: "orders", Scopes: []string{"feed"}})
	if err != nil {
		t.Fatal(err)
	}
	v, err := quash.Open(t.Context(), quash.Config{URL: "https://" + cfg.Private, Key: key.Secret, TLS: trusting})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close(t.Context())
	if resp, err := http.Get("http://" + cfg.Public + "/healthz"); err == nil {
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			t.Error("the listener answered plain HTTP")
		}
	}
}

// TestCertificateIsTakenUp replaces the certificate without a restart. One that
// cannot be read leaves the one before it in use, and is logged.
func TestCertificateIsTakenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		cfg := server.Config{TLSCert: filepath.Join(dir, "cert.pem"), TLSKey: filepath.Join(dir, "key.pem")}
		writeCertificate(t, cfg, 1)
		var logged strings.Builder
		pair, err := server.LoadCertificate(cfg.TLSCert, cfg.TLSKey, slog.New(slog.NewTextHandler(&logged, nil)))
		if err != nil {
			t.Fatal(err)
		}
		serves := func(what string, want int64) {
			t.Helper()
			time.Sleep(5 * time.Second)
			served, err := pair(nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := served.Leaf.SerialNumber.Int64(); got != want {
				t.Errorf("%s: got serial %d, want %d", what, got, want)
			}
		}
		serves("at first", 1)
		writeCertificate(t, cfg, 2)
		serves("with a new certificate on disk", 2)
		if logged.Len() > 0 {
			t.Errorf("logged without a reason: %s", &logged)
		}
		if err := os.WriteFile(cfg.TLSCert, []byte("nothing"), 0o600); err != nil {
			t.Fatal(err)
		}
		serves("with a broken certificate on disk", 2)
		if !strings.Contains(logged.String(), "could not be read again") {
			t.Errorf("the broken certificate was not logged: %s", &logged)
		}
		writeCertificate(t, cfg, 3)
		serves("with a good one again", 3)
	})
}

func writeCertificate(t *testing.T, cfg server.Config, serial int64) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "quash"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{cfg.TLSKey: {Type: "PRIVATE KEY", Bytes: private}, cfg.TLSCert: {Type: "CERTIFICATE", Bytes: der}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
