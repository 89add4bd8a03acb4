package issuer

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strings"
	"time"
)

// A refresh token is "qr_" and the base64url form of the session's sixteen
// octets, the counter in eight, and a MAC over both. Its key comes from the
// server's secret and from the session's row: neither alone makes a token.
// Nothing is stored for a token; the row's counter says which one is current.

const (
	refreshPrefix = "qr_"
	sessionPrefix = "s_"
	idSize        = 16
	refreshSize   = idSize + 8 + sha256.Size
)

// retryWindow is how long the token before the current one gives the same
// successor without an Idempotency-Key: what parallel tabs need.
const retryWindow = 10 * time.Second

type refreshToken struct {
	session string
	counter uint64
	mac     [sha256.Size]byte
}

// parseRefreshToken reads the form only; whether the MAC is good takes the row.
func parseRefreshToken(s string) (refreshToken, bool) {
	encoded, ok := strings.CutPrefix(s, refreshPrefix)
	if !ok || len(encoded) != base64.RawURLEncoding.EncodedLen(refreshSize) || strings.ContainsAny(encoded, "\r\n") {
		return refreshToken{}, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return refreshToken{}, false
	}
	return refreshToken{
		session: sessionPrefix + base64.RawURLEncoding.EncodeToString(b[:idSize]),
		counter: binary.BigEndian.Uint64(b[idSize:]),
		mac:     [sha256.Size]byte(b[idSize+8:]),
	}, true
}

// refreshTokenOf returns the token of a session that has the given counter.
func (i *Issuer) refreshTokenOf(s Session, counter uint64) string {
	id, _ := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(s.ID, sessionPrefix))
	b := binary.BigEndian.AppendUint64(id, counter)
	b = append(b, i.secrets[0].refreshMAC(s, b)...)
	return refreshPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// made reports whether the token was made for s with one of the secrets. Tokens
// that different secrets made of one counter are the same successor: the counter
// alone says what a token deserves.
func (i *Issuer) made(s Session, t refreshToken) bool {
	id, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(s.ID, sessionPrefix))
	named := binary.BigEndian.AppendUint64(id, t.counter)
	return err == nil && slices.ContainsFunc(i.secrets, func(d derived) bool { return hmac.Equal(t.mac[:], d.refreshMAC(s, named)) })
}

// verdict is what a refresh token deserves.
type verdict int

const (
	forged  verdict = iota // not made by this server, or for a session that is gone
	rotate                 // current: gets a successor
	repeat                 // the one before, entitled to the same successor again
	reuse                  // older than that: theft
	ahead                  // made by us, but the row has not heard of it: the database lost a tail
	expired                // the session idled too long or reached its end
)

// judge decides on a refresh token of s. It is the whole of rotation: the
// caller only carries it out.
func (i *Issuer) judge(s Session, t refreshToken, retryKey [sha256.Size]byte, now time.Time) verdict {
	if !i.made(s, t) {
		return forged
	}
	switch {
	case t.counter > s.Counter:
		return ahead
	case !i.alive(s, now):
		return expired
	case t.counter == s.Counter:
		return rotate
	case t.counter+1 == s.Counter && (sameRetry(s, retryKey) || inRetryWindow(s, now)):
		return repeat
	}
	return reuse
}

func (i *Issuer) alive(s Session, now time.Time) bool {
	return now.Before(s.Expires) && now.Before(s.LastUsed.Add(i.cfg.IdleTimeout))
}

func inRetryWindow(s Session, now time.Time) bool { return !now.After(s.Rotated.Add(retryWindow)) }

func sameRetry(s Session, key [sha256.Size]byte) bool {
	return key != [sha256.Size]byte{} && hmac.Equal(key[:], s.RetryKey[:])
}

// retryKeyOf returns what a row keeps of an Idempotency-Key.
func retryKeyOf(key string) ([sha256.Size]byte, error) {
	switch {
	case key == "":
		return [sha256.Size]byte{}, nil
	case len(key) > 255:
		return [sha256.Size]byte{}, refuse(CodeInvalid, "the Idempotency-Key has more than 255 characters")
	}
	return sha256.Sum256([]byte(key)), nil
}
