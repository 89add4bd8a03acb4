package quash_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/internal/feed"
)

func readVectors(t testing.TB, name string, v any) {
	t.Helper()
	b, err := os.ReadFile("testdata/vectors/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

func verdict(err error) string {
	switch {
	case err == nil:
		return "valid"
	case errors.Is(err, quash.ErrInvalid):
		return "invalid"
	case errors.Is(err, quash.ErrExpired):
		return "expired"
	case errors.Is(err, quash.ErrRevoked):
		return "revoked"
	}
	return err.Error()
}

// startAt lets the bubble's clock reach a moment.
func startAt(unix int64) { time.Sleep(time.Until(time.Unix(unix, 0))) }

// testdata/vectors/tokens.json: every token gets its verdict, the first time
// and from the cache.
func TestTokenVectors(t *testing.T) {
	var file struct {
		Keys        json.RawMessage
		Issuer      string
		Audience    string
		Now         int64
		MaxLifetime int64 `json:"max_lifetime"`
		Vectors     []struct{ ID, About, Token, Verdict string }
	}
	readVectors(t, "tokens.json", &file)
	bubble(t, func(t *testing.T) {
		startAt(file.Now)
		n := newNode(t)
		n.hello.Keys, n.hello.Issuer, n.hello.MaxLifetime = file.Keys, file.Issuer, file.MaxLifetime
		c := n.config()
		c.Audience = file.Audience
		v, _ := n.open(c)
		for range 2 {
			for _, vector := range file.Vectors {
				if _, err := v.Verify(vector.Token); verdict(err) != vector.Verdict {
					t.Errorf("%s (%s): got %v, want %s", vector.ID, vector.About, err, vector.Verdict)
				}
			}
		}
		valid := 0
		for _, vector := range file.Vectors {
			if vector.Verdict == "valid" {
				valid++
			}
		}
		if _, _, entries := quash.CacheBytes(v); entries != valid {
			t.Errorf("the cache holds %d tokens, want the %d that are valid", entries, valid)
		}
	})
}

// testdata/vectors/revocations.json: the records have the octets given, and
// kill the tokens that they should.
func TestRevocationVectors(t *testing.T) {
	var file struct {
		HashSecret string `json:"hash_secret"`
		Issuer     string
		Records    []struct {
			Position uint64
			Claim    string
			Hex      string
		}
		Tokens []struct {
			ID, About, Kid, Verdict string
			Claims                  json.RawMessage
		}
	}
	readVectors(t, "revocations.json", &file)
	bubble(t, func(t *testing.T) {
		startAt(1_800_000_100)
		n := newNode(t)
		n.hello.HashSecret, n.hello.Issuer = must(hex.DecodeString(file.HashSecret)), file.Issuer
		public, private, _ := ed25519.GenerateKey(nil)
		n.hello.Keys = keySetOf(public, "k1", "stolen")
		message := []byte{byte(feed.KindSnapshot)}
		n.hello.Claims = nil
		for _, r := range file.Records {
			message = append(message, must(hex.DecodeString(r.Hex))...)
			n.hello.Claims = append(n.hello.Claims, r.Claim)
		}
		v, p := n.open(n.config())
		p.conn.CloseNow()
		p = <-n.peers
		n.hello.Log = "log-2"
		p.sendHello(false)
		p.send(message)
		p.sendMark(file.Records[len(file.Records)-1].Position)
		synctest.Wait()
		for _, token := range file.Tokens {
			text := signAs(private, token.Kid, withDefaults(token.Claims, n.hello.Issuer))
			if _, err := v.Verify(text); verdict(err) != token.Verdict {
				t.Errorf("%s (%s): got %v, want %s", token.ID, token.About, err, token.Verdict)
			}
		}
	})
}

// keySetOf is a key set that has one key under several names, so that a test
// can choose the kid.
func keySetOf(public ed25519.PublicKey, names ...string) json.RawMessage {
	keys := make([]map[string]string, len(names))
	for i, name := range names {
		keys[i] = map[string]string{"kty": "OKP", "crv": "Ed25519", "kid": name, "x": base64.RawURLEncoding.EncodeToString(public)}
	}
	return must(json.Marshal(map[string]any{"keys": keys}))
}

func signAs(private ed25519.PrivateKey, kid, payload string) string {
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"Ed25519","kid":"`+kid+`","typ":"at+jwt"}`)) + "." + encode([]byte(payload))
	return text + "." + encode(ed25519.Sign(private, []byte(text)))
}

// withDefaults adds the claims that every token needs to an object, whose own
// members stay as they are written.
func withDefaults(object json.RawMessage, issuer string) string {
	now := time.Now().Unix()
	text := strings.TrimSuffix(string(object), "}")
	for name, value := range map[string]any{
		"iss": issuer, "aud": testAudience, "sub": "u_0", "client_id": "app", "sid": "s_0", "jti": "t_0", "iat": now, "exp": now + 300,
	} {
		if !strings.Contains(text, `"`+name+`":`) {
			text += fmt.Sprintf(`,%q:%s`, name, must(json.Marshal(value)))
		}
	}
	return text + "}"
}
