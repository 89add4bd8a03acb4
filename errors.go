package quash

import (
	"errors"
	"fmt"
)

// What Verify answers where it does not accept, to compare with errors.Is.
// What is wrapped around them is for logs: it holds no token, and must not
// reach a client, whom it would tell which check to get past. [WriteError]
// keeps to that.
var (
	// ErrInvalid says that this is no access token of the issuer for this
	// audience, and never was one. The client has to get another.
	ErrInvalid = errors.New("quash: token invalid")
	// ErrExpired says that the token was good until its time ran out. The
	// client should refresh.
	ErrExpired = errors.New("quash: token expired")
	// ErrRevoked says that a revocation killed the token. The client should
	// refresh once; where its session has ended that fails too.
	ErrRevoked = errors.New("quash: token revoked")
	// ErrStale says that the token would have been accepted, but that the
	// verifier cannot rely on its revocations now. The client should keep the
	// token and try again.
	ErrStale = errors.New("quash: verifier stale")
	// ErrNotReady says that the verifier has had no complete snapshot yet.
	// The client should keep the token and try again.
	ErrNotReady = errors.New("quash: verifier not ready")
)

func invalid(detail string) error { return fmt.Errorf("%w: %s", ErrInvalid, detail) }
