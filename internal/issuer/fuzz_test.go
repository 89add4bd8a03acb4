package issuer_test

import (
	"encoding/base64"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/quashdev/quash/internal/issuer"
)

// FuzzRefreshToken checks that a refresh token that is read is the one text of
// what it holds: the session and counter that it names are those that were
// written, so that no second spelling of a token is another token.
func FuzzRefreshToken(f *testing.F) {
	token := "qr_" + base64.RawURLEncoding.EncodeToString(make([]byte, 56))
	for _, seed := range []string{
		"", "qr_", token, token + "A", token[:len(token)-1], token[:len(token)-1] + "B", token[:len(token)-1] + "=", "QR_" + token[3:],
		token[:20] + "\n" + token[21:], token[:20] + "\r\n" + token[20:], token[:20] + "+" + token[21:], token[:20] + "/" + token[21:], " " + token,
		"qr_" + strings.Repeat("_", 75), "eyJhbGciOiJFUzI1NiJ9.e30.AAAA", strings.Repeat("qr_", 1000),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		session, counter, ok := issuer.ReadRefreshToken(text)
		if !ok {
			return
		}
		octets, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(text, "qr_"))
		if err != nil || "qr_"+base64.RawURLEncoding.EncodeToString(octets) != text || len(octets) != 56 {
			t.Fatalf("took %q (%v), which is %d octets", text, err, len(octets))
		}
		if want := "s_" + base64.RawURLEncoding.EncodeToString(octets[:16]); session != want {
			t.Errorf("%q: got session %s, want %s", text, session, want)
		}
		if want := binary.BigEndian.Uint64(octets[16:24]); counter != want {
			t.Errorf("%q: got counter %d, want %d", text, counter, want)
		}
	})
}
