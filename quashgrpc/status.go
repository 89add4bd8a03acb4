package quashgrpc

import (
	"errors"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quashdev/quash"
)

// Domain is the domain of the ErrorInfo in the statuses of this package.
const Domain = "quash"

// retryAfter is when to try again, as Retry-After says over HTTP.
const retryAfter = 2 * time.Second

// The statuses. They say nothing of the error's text, which is for logs.
var (
	statusNoToken = refusal(codes.Unauthenticated, "NO_TOKEN", "no access token: send one in the authorization metadata")
	statusRequest = refusal(codes.Unauthenticated, "INVALID_REQUEST", "malformed credentials: send one access token, as Bearer and the token")
	statusToken   = refusal(codes.Unauthenticated, "INVALID_TOKEN", "the access token is invalid, expired or revoked")
	statusStale   = refusal(codes.Unavailable, "STALE", "this server is not sure to know every revocation: keep the token and try again")
	statusStarts  = refusal(codes.Unavailable, "NOT_READY", "this server is starting: keep the token and try again")
	statusUnknown = status.Error(codes.Internal, "the access token could not be checked")
)

func refusal(code codes.Code, reason, message string) error {
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: reason, Domain: Domain}}
	if code == codes.Unavailable {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)})
	}
	s, err := status.New(code, message).WithDetails(details...)
	if err != nil {
		panic("quashgrpc: " + err.Error()) // of a constant
	}
	return s.Err()
}

// statusOf returns the status for an error of a verifier.
func statusOf(err error) error {
	switch {
	case errors.Is(err, quash.ErrInvalid), errors.Is(err, quash.ErrExpired), errors.Is(err, quash.ErrRevoked):
		return statusToken
	case errors.Is(err, quash.ErrStale):
		return statusStale
	case errors.Is(err, quash.ErrNotReady):
		return statusStarts
	}
	return statusUnknown
}
