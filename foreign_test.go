package quash_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"testing"
	"time"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/revset"
)

// foreignFile is testdata/vectors/foreign.json.
type foreignFile struct {
	Now        int64
	HashSecret string `json:"hash_secret"`
	Own        struct {
		Name, Audience string
		MaxLifetime    int64 `json:"max_lifetime"`
		Keys           json.RawMessage
	}
	Known   []feed.Issuer
	Claims  []string
	Issuers []struct {
		Name, Audience string
		Keys           json.RawMessage
		Secret         []byte
		Until          int64
		Types          []string
		MaxLifetime    int64 `json:"max_lifetime"`
		Skew           int64
	}
	Records []struct{ Hex string }
	Vectors []struct{ ID, About, Token, Verdict string }
}

// open returns a verifier that trusts every issuer of the file.
func (f *foreignFile) open(t *testing.T) *quash.Verifier {
	t.Helper()
	n := newNode(t)
	n.hello.Issuer, n.hello.Keys, n.hello.MaxLifetime = f.Own.Name, f.Own.Keys, f.Own.MaxLifetime
	n.hello.HashSecret, n.hello.Claims, n.hello.Issuers = must(hex.DecodeString(f.HashSecret)), f.Claims, f.Known
	c := n.config()
	c.Audience = f.Own.Audience
	for _, i := range f.Issuers {
		issuer := quash.Issuer{
			Name: i.Name, Keys: i.Keys, Secret: i.Secret, Audience: i.Audience, Types: i.Types,
			MaxLifetime: time.Duration(i.MaxLifetime) * time.Second, Skew: time.Duration(i.Skew) * time.Second,
		}
		if i.Until != 0 {
			issuer.Until = time.Unix(i.Until, 0)
		}
		c.Issuers = append(c.Issuers, issuer)
	}
	var records []revset.Record
	for _, r := range f.Records {
		records = append(records, must(feed.DecodeSnapshot(nil, must(hex.DecodeString(r.Hex))))...)
	}
	v, _ := n.open(c, records...)
	return v
}

// testdata/vectors/foreign.json: every token gets its verdict, the first time
// and from the cache.
func TestForeignVectors(t *testing.T) {
	var file foreignFile
	readVectors(t, "foreign.json", &file)
	bubble(t, func(t *testing.T) {
		startAt(file.Now)
		v := file.open(t)
		for range 2 {
			for _, vector := range file.Vectors {
				if _, err := v.Verify(vector.Token); verdict(err) != vector.Verdict {
					t.Errorf("%s (%s): got %v, want %s", vector.ID, vector.About, err, vector.Verdict)
				}
			}
		}
	})
}

// macToken is a token as applications made it with a shared secret.
func macToken(secret, claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode([]byte(claims))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return text + "." + encode(mac.Sum(nil))
}
