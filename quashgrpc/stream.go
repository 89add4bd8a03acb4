package quashgrpc

import (
	"context"
	"fmt"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// watched is a stream that ends with the token of its context.
//
// What blocks in the stream beneath is released by grpc-go when the interceptor
// has returned.
type watched struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *watched) Context() context.Context { return s.ctx }

func (s *watched) SendHeader(md metadata.MD) error {
	return s.during(func() error { return s.ServerStream.SendHeader(md) })
}

func (s *watched) SendMsg(m any) error {
	return s.during(func() error { return s.ServerStream.SendMsg(m) })
}

func (s *watched) RecvMsg(m any) error {
	return s.during(func() error { return s.ServerStream.RecvMsg(m) })
}

// during does what the handler asks for unless the token has ended, before it
// or meanwhile.
func (s *watched) during(do func() error) error {
	if err := ended(s.ctx); err != nil {
		return err
	}
	err := do()
	if over := ended(s.ctx); over != nil {
		return over
	}
	return err
}

// outcome is how a handler ended.
type outcome struct {
	err   error
	panic any // nil: it did not
	stack []byte
}

// serve runs the handler of a stream and returns as soon as it has ended, or
// the token of ctx has.
func serve(ctx context.Context, handler func() error) error {
	done, left := make(chan outcome), make(chan struct{})
	defer close(left)
	go run(handler, done, left)
	select {
	case o := <-done:
		return o.result(ctx)
	case <-ctx.Done():
	}
	if err := ended(ctx); err != nil {
		return err
	}
	o := <-done // the client went away: that is the handler's business
	return o.result(ctx)
}

// run runs the handler, and tells how it ended, unless nobody is there any more.
func run(handler func() error, done chan<- outcome, left <-chan struct{}) {
	o := outcome{err: status.Error(codes.Internal, "the handler ended without a status")} // by runtime.Goexit
	defer func() {
		if o.panic = recover(); o.panic != nil {
			o.stack = debug.Stack()
		}
		select {
		case done <- o:
		case <-left:
			if o.panic != nil {
				panic(o.panic)
			}
		}
	}()
	o.err = handler()
}

func (o outcome) result(ctx context.Context) error {
	switch over := ended(ctx); {
	case o.panic != nil:
		panic(fmt.Sprintf("%v\n\nin the handler's goroutine:\n%s", o.panic, o.stack))
	case o.err != nil && over != nil:
		return over
	}
	return o.err
}
