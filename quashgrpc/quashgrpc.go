// Package quashgrpc has gRPC servers accept only calls with a live token: it
// is [quash.Verifier.Protect] for gRPC.
//
//	v, err := quash.Open(ctx, quash.Config{URL: url, Key: key, Audience: "orders"})
//	if err != nil {
//		return err
//	}
//	defer v.Close(context.Background())
//	srv := grpc.NewServer(
//		grpc.ChainUnaryInterceptor(quashgrpc.Unary(v)),
//		grpc.ChainStreamInterceptor(quashgrpc.Stream(v)),
//	)
//
// The token is in the call's metadata, under authorization, as in the header of
// an HTTP request (RFC 6750, section 2.1). A handler finds the token's claims
// with [quash.FromContext]. An interceptor sees every method of its server;
// those that need no token, such as health checks, are left out by an
// interceptor around it that knows their names, or live on another server.
//
// # Calls that outlive their token
//
// A token may be revoked, or expire, while its call goes on. The call's context
// then ends, with a cause (see [context.Cause]) as [quash.NotifyContext] says,
// and a stream ends at once: [Stream] says how.
//
// # Statuses
//
// A call that is not accepted, or not any more, ends with a status that says
// what the client should do. Its details hold an ErrorInfo of google.rpc, with
// domain [Domain] and one of these reasons:
//
//	code             reason
//	UNAUTHENTICATED  NO_TOKEN         send a token
//	UNAUTHENTICATED  INVALID_REQUEST  send one token, as Bearer
//	UNAUTHENTICATED  INVALID_TOKEN    it is invalid, expired or revoked: refresh once
//	UNAVAILABLE      STALE            keep the token and try again, as RetryInfo says
//	UNAVAILABLE      NOT_READY        keep the token and try again, as RetryInfo says
//
// They are those of the answers to HTTP requests. Invalid, expired and revoked
// tokens have the same, because the difference helps nobody but an attacker
// (RFC 6750, section 3.1).
package quashgrpc

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/quashdev/quash"
)

// staleKey is the response's metadata that say that the call was accepted by
// [quash.AcceptStale].
const staleKey = "quash-stale"

// admission accepts a call of a route.
type admission func(ctx context.Context, token string) (context.Context, time.Duration, error)

// Unary returns an interceptor that calls the handler where the call has an
// accepted token, and ends others with a status; the package comment lists
// them. Options mean what they mean for Protect; a call that
// [quash.AcceptStale] bears has the whole seconds since the lease ended in its
// response's header metadata, under quash-stale.
//
// The handler's context ends with the token. Where the handler then returns an
// error, whichever, the call ends with the token's status; a response that it
// returns is sent.
//
// Each call of Unary is one route, which counts for as long as the verifier
// lives.
func Unary(v *quash.Verifier, options ...quash.Option) grpc.UnaryServerInterceptor {
	admit := admission(v.Route(options...))
	return func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, err := admit.call(ctx)
		if err != nil {
			return nil, err
		}
		ctx, stop := quash.NotifyContext(ctx)
		defer stop()
		if err := ended(ctx); err != nil {
			return nil, err
		}
		response, err := handler(ctx, request)
		if err == nil {
			return response, nil
		}
		if over := ended(ctx); over != nil {
			return nil, over
		}
		return nil, err
	}
}

// Stream returns an interceptor that calls the handler where the call has an
// accepted token, and ends others with a status, as [Unary] does.
//
// The call ends with the token, within milliseconds, whatever the handler does:
// the client gets the token's status, a RecvMsg or SendMsg that is blocked
// returns it, and so does every later one; no message is handed to the handler
// any more, and none is sent. A handler must return then, as it must when its
// client goes away.
//
// To that end the handler, and the interceptors between it and this one, run in
// a goroutine of their own, which may outlive the call: those outside, and
// grpc.Server's GracefulStop, do not wait for a handler whose token has ended.
// While the call lasts a panic of the handler goes on where the call is served,
// with the handler's stack in its text; a panic after that is not held up.
//
// Each call of Stream is one route, which counts for as long as the verifier
// lives.
func Stream(v *quash.Verifier, options ...quash.Option) grpc.StreamServerInterceptor {
	admit := admission(v.Route(options...))
	return func(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, err := admit.call(stream.Context())
		if err != nil {
			return err
		}
		ctx, stop := quash.NotifyContext(ctx)
		defer stop()
		if err := ended(ctx); err != nil {
			return err
		}
		return serve(ctx, func() error { return handler(server, &watched{stream, ctx}) })
	}
}

// call accepts the call of a context, or returns the status with which it ends.
func (admit admission) call(ctx context.Context) (context.Context, error) {
	// A call is an HTTP request, whose headers are the metadata.
	request := http.Request{Header: http.Header{"Authorization": metadata.ValueFromIncomingContext(ctx, "authorization")}}
	token, err := quash.Bearer(&request)
	switch {
	case err != nil:
		return nil, statusRequest
	case token == "":
		return nil, statusNoToken
	}
	ctx, late, err := admit(ctx, token)
	if err != nil {
		return nil, statusOf(err)
	}
	if late >= 0 {
		seconds := strconv.FormatInt(int64(late/time.Second), 10)
		if err := grpc.SetHeader(ctx, metadata.Pairs(staleKey, seconds)); err != nil {
			return nil, err
		}
	}
	return ctx, nil
}

// ended returns the status with which the token of the context has ended; nil
// while it has not, though the context may have ended for other reasons.
func ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	if err := statusOf(context.Cause(ctx)); err != statusUnknown {
		return err
	}
	return nil
}
