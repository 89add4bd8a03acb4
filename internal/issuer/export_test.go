package issuer

import (
	"context"

	"github.com/quashdev/quash/internal/jws"
)

// HoldHash takes a turn at hashing until release is closed.
func (i *Issuer) HoldHash(ctx context.Context, release <-chan struct{}) error {
	return i.hashes.run(ctx, func() error {
		<-release
		return nil
	})
}

// Waiters is how many calls a core may have waiting for their turn at hashing.
const Waiters = waiters

// RefreshTokenOf makes the token that the server would take for its own if
// the session's row were s.
func (i *Issuer) RefreshTokenOf(s Session, counter uint64) string {
	return i.refreshTokenOf(s, counter)
}

// ReadRefreshToken reads the form of a refresh token, whose MAC may be wrong.
func ReadRefreshToken(text string) (session string, counter uint64, ok bool) {
	t, ok := parseRefreshToken(text)
	return t.session, t.counter, ok
}

// Sign signs claims with the current key under any typ.
func (i *Issuer) Sign(ctx context.Context, typ string, claims []byte) (token string, err error) {
	err = i.store.View(ctx, func(rd Reader) error {
		key, err := currentKey(rd)
		if err != nil {
			return err
		}
		signer, err := i.signer(key)
		if err != nil {
			return err
		}
		token, err = signer.Sign(typ, claims)
		return err
	})
	return token, err
}

// Decoy returns the key that stands in for one of an unknown client.
func Decoy(a jws.Algorithm) *jws.PublicKey { return decoy(string(a)) }

// Events returns the events that can end sessions or tokens, in the order of
// the documentation.
func Events() []Event {
	return []Event{
		LoggedOut, LoggedOutOthers, LoggedOutAll, PasswordChanged, PasswordSet, Deactivated, Reactivated,
		Deleted, RefreshReused, SessionEvicted, ClaimsChanged, KeyCompromised, ClientChanged, ClientDeleted, ClaimRevoked,
	}
}
