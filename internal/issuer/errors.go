package issuer

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Code names, for programs, why a call was refused.
type Code string

// The codes. Their texts are part of the HTTP surface.
const (
	CodeInvalid      Code = "invalid_request"     // the request itself is wrong
	CodeCredentials  Code = "invalid_credentials" // no such account and password
	CodeGrant        Code = "invalid_grant"       // the refresh token is no good: log in again
	CodeToken        Code = "invalid_token"       // the access token is no good
	CodePassword     Code = "weak_password"       // the new password is not acceptable
	CodeUnknownClaim Code = "unknown_claim"       // no token carries the claim
	CodeNotFound     Code = "not_found"
	CodeConflict     Code = "conflict" // something else has the name, or changed meanwhile
	CodeForbidden    Code = "forbidden"
	CodeLimited      Code = "too_many_requests"
	CodeBusy         Code = "busy"           // more password checks are waiting than can be
	CodeScope        Code = "invalid_scope"  // more was asked for than was granted
	CodeClient       Code = "invalid_client" // the client did not show who it is
	CodeFull         Code = "full"           // the live revocations, or the claims they name, are near their bound
	CodeUnavailable  Code = "unavailable"    // the store did not answer; what the call was for was not done

	// CodeUnauthorizedClient says that the client is known and not allowed this.
	CodeUnauthorizedClient Code = "unauthorized_client"
	// CodeOutcomeUnknown says that a change may stand or not. To ask again
	// without looking could make it twice.
	CodeOutcomeUnknown Code = "outcome_unknown"
)

// Error is a refusal. Its text is for the caller and holds no secret.
type Error struct {
	Code       Code
	Detail     string        // what happened and what to do
	RetryAfter time.Duration // when trying again makes sense; 0: not by itself
	cause      error
}

func (e *Error) Error() string { return e.Detail }

func (e *Error) Unwrap() error { return e.cause }

func refuse(c Code, format string, args ...any) *Error {
	return &Error{Code: c, Detail: fmt.Sprintf(format, args...)}
}

// CodeOf returns the code of err: that of an [*Error] in its chain, or
// CodeUnavailable for every other failure.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeUnavailable
}

// explain turns what a store returned into a refusal in the caller's words.
func explain(what string, err error) error { return explainAfter("nothing changed", what, err) }

// explainAfter is [explain] for a call whose transactions before the one that
// failed have committed: standing says what has changed, and what has not.
func explainAfter(standing, what string, err error) error {
	var refusal *Error
	switch {
	case err == nil || errors.As(err, &refusal):
		return err
	case errors.Is(err, ErrNotFound):
		return &Error{Code: CodeNotFound, Detail: "there is no such " + what, cause: err}
	case errors.Is(err, ErrExists):
		return &Error{Code: CodeConflict, Detail: "another " + what + " has that name; choose a different one", cause: err}
	case errors.Is(err, ErrUnknown):
		return &Error{Code: CodeOutcomeUnknown, Detail: "the change may or may not have been made; look before making it again", cause: err}
	case errors.Is(err, ErrForked):
		return &Error{Code: CodeUnavailable, Detail: "the database has lost its latest changes, and a new epoch is about to begin; " + standing + ", try again", RetryAfter: time.Second, cause: err}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: CodeUnavailable, Detail: "the caller left before it was done; " + standing, cause: err}
	}
	return &Error{Code: CodeUnavailable, Detail: "the database did not answer; " + standing + ", try again", RetryAfter: time.Second, cause: err}
}
