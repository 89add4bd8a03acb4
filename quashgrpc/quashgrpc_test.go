package quashgrpc_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/quashgrpc"
	"github.com/quashdev/quash/quashtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// text is the one message of the service.
type text = wrapperspb.StringValue

// service is a gRPC server whose two methods a test writes.
type service struct {
	unary  func(ctx context.Context) (*text, error)
	stream func(s grpc.ServerStream) error
}

var description = grpc.ServiceDesc{
	ServiceName: "test.Service",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Unary",
		Handler: func(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			request := new(text)
			if err := decode(request); err != nil {
				return nil, err
			}
			return interceptor(ctx, request, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/test.Service/Unary"},
				func(ctx context.Context, _ any) (any, error) { return srv.(*service).unary(ctx) })
		},
	}},
	Streams: []grpc.StreamDesc{{
		StreamName: "Stream", ServerStreams: true, ClientStreams: true,
		Handler: func(srv any, s grpc.ServerStream) error { return srv.(*service).stream(s) },
	}},
}

// bubble runs f where time stands still unless everything waits for it. All
// that f began must have ended when it returns.
func bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t) })
}

// start serves s over connections in memory, and returns a client of it.
func start(t *testing.T, v *quash.Verifier, s *service, options ...quash.Option) *grpc.ClientConn {
	t.Helper()
	lis := bufconn.Listen(1 << 16)
	return serve(t, s, lis, func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) },
		grpc.UnaryInterceptor(quashgrpc.Unary(v, options...)), grpc.StreamInterceptor(quashgrpc.Stream(v, options...)))
}

func serve(t *testing.T, s *service, lis net.Listener, dial func(context.Context, string) (net.Conn, error), options ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	if s.unary == nil {
		s.unary = func(ctx context.Context) (*text, error) { return wrapperspb.String(subject(ctx)), nil }
	}
	if s.stream == nil {
		s.stream = func(s grpc.ServerStream) error { return s.SendMsg(wrapperspb.String(subject(s.Context()))) }
	}
	srv := grpc.NewServer(options...)
	srv.RegisterService(&description, s)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(lis) }()
	conn, err := grpc.NewClient("passthrough:///"+lis.Addr().String(), grpc.WithContextDialer(dial), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		srv.GracefulStop()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return conn
}

func subject(ctx context.Context) string {
	if c := quash.FromContext(ctx); c != nil {
		return c.Subject
	}
	return ""
}

func with(t *testing.T, values ...string) context.Context {
	md := metadata.MD{}
	md.Append("authorization", values...)
	return metadata.NewOutgoingContext(t.Context(), md)
}

func call(ctx context.Context, conn *grpc.ClientConn, options ...grpc.CallOption) (string, error) {
	var response text
	err := conn.Invoke(ctx, "/test.Service/Unary", new(text), &response, options...)
	return response.Value, err
}

func open(t *testing.T, ctx context.Context, conn *grpc.ClientConn) grpc.ClientStream {
	t.Helper()
	s, err := conn.NewStream(ctx, &description.Streams[0], "/test.Service/Stream")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func receive(s grpc.ClientStream) (string, error) {
	var response text
	err := s.RecvMsg(&response)
	return response.Value, err
}

// wantStatus checks a status: its code, its reason, and whether it says when to
// try again.
func wantStatus(t *testing.T, err error, code codes.Code, reason, when string) {
	t.Helper()
	s := status.Convert(err)
	var info errdetails.ErrorInfo
	var retry time.Duration
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			info.Reason, info.Domain = d.Reason, d.Domain
		case *errdetails.RetryInfo:
			retry = d.RetryDelay.AsDuration()
		}
	}
	if s.Code() != code || info.Reason != reason || info.Domain != quashgrpc.Domain {
		t.Errorf("%s: got %v %s/%s, want %v quash/%s", when, s, info.Domain, info.Reason, code, reason)
	}
	if wanted := code == codes.Unavailable; wanted != (retry == 2*time.Second) {
		t.Errorf("%s: got %s to try again after", when, retry)
	}
}

func TestCallsNeedALiveToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		iss := quashtest.New(t)
		conn := start(t, iss.Verifier(t, ""), &service{})
		good, revoked := iss.Token(t, quashtest.Claims{Subject: "u_7"}), iss.Token(t, quashtest.Claims{})
		iss.Revoke(t, "sid", revoked.Session)
		for about, c := range map[string]struct {
			values []string
			reason string // empty: accepted
		}{
			"good":                  {[]string{"Bearer " + good.Text}, ""},
			"small letters":         {[]string{"bearer " + good.Text}, ""},
			"several spaces":        {[]string{"Bearer   " + good.Text}, ""},
			"no metadata":           {nil, "NO_TOKEN"},
			"another scheme":        {[]string{"Basic abc"}, "NO_TOKEN"},
			"the token alone":       {[]string{good.Text}, "NO_TOKEN"},
			"two values":            {[]string{"Bearer " + good.Text, "Bearer " + good.Text}, "INVALID_REQUEST"},
			"two values, one empty": {[]string{"Bearer " + good.Text, ""}, "INVALID_REQUEST"},
			"no token after Bearer": {[]string{"Bearer"}, "INVALID_REQUEST"},
			"two tokens":            {[]string{"Bearer " + good.Text + " " + good.Text}, "INVALID_REQUEST"},
			"a list":                {[]string{"Bearer " + good.Text + ",x"}, "INVALID_REQUEST"},
			"not a token":           {[]string{"Bearer abc"}, "INVALID_TOKEN"},
			"revoked":               {[]string{"Bearer " + revoked.Text}, "INVALID_TOKEN"},
			"expired":               {[]string{"Bearer " + iss.Token(t, quashtest.Claims{Lifetime: -time.Minute}).Text}, "INVALID_TOKEN"},
			"another audience":      {[]string{"Bearer " + iss.Token(t, quashtest.Claims{Audience: "billing"}).Text}, "INVALID_TOKEN"},
		} {
			ctx := with(t, c.values...)
			unary, err := call(ctx, conn)
			stream, streamErr := receive(open(t, ctx, conn))
			if c.reason != "" {
				wantStatus(t, err, codes.Unauthenticated, c.reason, about+", unary")
				wantStatus(t, streamErr, codes.Unauthenticated, c.reason, about+", stream")
				continue
			}
			if unary != "u_7" || stream != "u_7" {
				t.Errorf("%s: got %q, %v and %q, %v, want the handler to find the claims", about, unary, err, stream, streamErr)
			}
		}
	})
}

// severed is a dialer that can be cut off from its issuer.
type severed struct {
	dial func(context.Context, string, string) (net.Conn, error)

	mu    sync.Mutex
	off   bool
	conns []net.Conn
}

func (s *severed) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.off {
		return nil, errors.New("unreachable")
	}
	c, err := s.dial(ctx, network, address)
	s.conns = append(s.conns, c)
	return c, err
}

func (s *severed) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.off = true
	for _, c := range s.conns {
		c.Close()
	}
}

// severable returns a verifier, and what cuts it off.
func severable(t *testing.T, iss *quashtest.Issuer) (*quash.Verifier, *severed) {
	t.Helper()
	config := iss.Config("")
	s := &severed{dial: config.Dial}
	config.Dial = s.Dial
	v, err := quash.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close(context.Background()) })
	return v, s
}

func TestAStaleServerAsksToTryAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		iss := quashtest.New(t)
		v, network := severable(t, iss)
		conn := start(t, v, &service{})
		ctx := with(t, "Bearer "+iss.Token(t, quashtest.Claims{}).Text)
		if _, err := call(ctx, conn); err != nil {
			t.Errorf("in step: %v", err)
		}
		network.cut()
		time.Sleep(31 * time.Second)
		_, err := call(ctx, conn)
		wantStatus(t, err, codes.Unavailable, "STALE", "unary")
		_, err = receive(open(t, ctx, conn))
		wantStatus(t, err, codes.Unavailable, "STALE", "stream")
	})
}

func TestAServerThatIsNotReadyAsksToTryAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		conn := start(t, new(quash.Verifier), &service{})
		_, err := call(with(t, "Bearer a.b.c"), conn)
		wantStatus(t, err, codes.Unavailable, "NOT_READY", "unary")
		_, err = receive(open(t, with(t, "Bearer a.b.c"), conn))
		wantStatus(t, err, codes.Unavailable, "NOT_READY", "stream")
	})
}

func TestAcceptStaleIsBoundedAndTells(t *testing.T) {
	bubble(t, func(t *testing.T) {
		iss := quashtest.New(t)
		v, network := severable(t, iss)
		conn := start(t, v, &service{}, quash.AcceptStale(time.Minute))
		if s := v.Status(); s.TolerantRoutes != 2 {
			t.Errorf("got %d routes that accept when stale, want 2: one each", s.TolerantRoutes)
		}
		ctx := with(t, "Bearer "+iss.Token(t, quashtest.Claims{}).Text)
		want := func(when, stale string) {
			t.Helper()
			var header metadata.MD
			_, err := call(ctx, conn, grpc.Header(&header))
			s := open(t, ctx, conn)
			_, streamErr := receive(s)
			streamHeader, _ := s.Header()
			for _, md := range []metadata.MD{header, streamHeader} {
				if got := md.Get("quash-stale"); (len(got) == 0) != (stale == "") || stale != "" && got[0] != stale {
					t.Errorf("%s: got quash-stale %q, want %q", when, got, stale)
				}
			}
			if err != nil || streamErr != nil {
				t.Errorf("%s: got %v and %v, want it accepted", when, err, streamErr)
			}
		}
		want("in step", "")
		network.cut()
		until := v.Status().LeaseUntil
		time.Sleep(time.Until(until))
		want("when the lease ends", "0")
		time.Sleep(59 * time.Second)
		want("59 s after it", "59")
		if got := v.Status().AcceptedStale; got != 4 {
			t.Errorf("got %d calls accepted while stale, want 4", got)
		}
		time.Sleep(time.Second)
		_, err := call(ctx, conn)
		wantStatus(t, err, codes.Unavailable, "STALE", "a minute after it")
	})
}

// What ends a token ends the contexts of calls, with its cause.
func TestALongUnaryCallLearnsThatItsTokenEnded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		iss := quashtest.New(t)
		entered := make(chan struct{})
		var cause error
		answer := func(ctx context.Context) (*text, error) { return nil, ctx.Err() }
		conn := start(t, iss.Verifier(t, ""), &service{unary: func(ctx context.Context) (*text, error) {
			entered <- struct{}{}
			<-ctx.Done()
			cause = context.Cause(ctx)
			return answer(ctx)
		}})
		run := func(end func(quashtest.Token), want error) (string, error) {
			t.Helper()
			tok := iss.Token(t, quashtest.Claims{})
			go func() {
				<-entered
				end(tok)
			}()
			response, err := call(with(t, "Bearer "+tok.Text), conn)
			if !errors.Is(cause, want) {
				t.Errorf("got cause %v, want %v", cause, want)
			}
			return response, err
		}
		revoke := func(tok quashtest.Token) { iss.Revoke(t, "sid", tok.Session) }
		_, err := run(revoke, quash.ErrRevoked)
		wantStatus(t, err, codes.Unauthenticated, "INVALID_TOKEN", "revoked")
		_, err = run(func(quashtest.Token) { time.Sleep(5 * time.Minute) }, quash.ErrExpired)
		wantStatus(t, err, codes.Unauthenticated, "INVALID_TOKEN", "expired")
		answer = func(context.Context) (*text, error) { return wrapperspb.String("done"), nil }
		if response, err := run(revoke, quash.ErrRevoked); response != "done" || err != nil {
			t.Errorf("a handler that answers all the same: got %q, %v, want its answer", response, err)
		}
	})
}

// blocked are the ways in which a stream's handler may be stuck when its token
// ends, and what it sees then.
var blocked = map[string]func(s grpc.ServerStream) error{
	"in RecvMsg": func(s grpc.ServerStream) error { return s.RecvMsg(new(text)) },
	"in SendMsg": func(s grpc.ServerStream) error {
		for {
			if err := s.SendMsg(wrapperspb.String(string(make([]byte, 4096)))); err != nil {
				return err
			}
		}
	},
	"on its context": func(s grpc.ServerStream) error {
		<-s.Context().Done()
		if got := context.Cause(s.Context()); errors.Is(got, quash.ErrInvalid) {
			return got
		}
		return s.SendMsg(wrapperspb.String("too late"))
	},
}

func TestAStreamEndsWithItsToken(t *testing.T) {
	for where, stuck := range blocked {
		for how, c := range map[string]struct {
			end    func(*testing.T, *quashtest.Issuer, *severed, quashtest.Token)
			code   codes.Code
			reason string
		}{
			"revoked": {func(t *testing.T, iss *quashtest.Issuer, _ *severed, tok quashtest.Token) {
				iss.Revoke(t, "sid", tok.Session)
			}, codes.Unauthenticated, "INVALID_TOKEN"},
			"expired": {func(*testing.T, *quashtest.Issuer, *severed, quashtest.Token) {
				time.Sleep(10 * time.Minute)
			}, codes.Unauthenticated, "INVALID_TOKEN"},
			"stale": {func(_ *testing.T, _ *quashtest.Issuer, network *severed, _ quashtest.Token) {
				network.cut()
				time.Sleep(31 * time.Second)
			}, codes.Unavailable, "STALE"},
		} {
			t.Run(how+" while "+where, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					iss := quashtest.New(t)
					v, network := severable(t, iss)
					saw := make(chan error, 1)
					conn := start(t, v, &service{stream: func(s grpc.ServerStream) error {
						err := stuck(s)
						saw <- err
						return err
					}})
					tok := iss.Token(t, quashtest.Claims{Lifetime: 10 * time.Minute})
					s := open(t, with(t, "Bearer "+tok.Text), conn)
					synctest.Wait()
					select {
					case err := <-saw:
						t.Fatalf("the handler was not stuck: %v", err)
					default:
					}
					c.end(t, iss, network, tok)
					synctest.Wait() // and not a moment longer
					select {
					case err := <-saw:
						wantStatus(t, err, c.code, c.reason, "the handler")
					default:
						t.Error("the handler is stuck still")
					}
					var err error
					for err == nil {
						_, err = receive(s)
					}
					wantStatus(t, err, c.code, c.reason, "the client")
				})
			})
		}
	}
}

// The call ends though its handler looks at nothing, and what the handler does
// after that reaches nobody.
func TestAStreamEndsWhateverItsHandlerDoes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		iss := quashtest.New(t)
		free, ended := make(chan struct{}), make(chan struct{})
		conn := start(t, iss.Verifier(t, ""), &service{stream: func(s grpc.ServerStream) error {
			defer close(ended)
			<-free
			wantStatus(t, s.SendHeader(metadata.Pairs("late", "1")), codes.Unauthenticated, "INVALID_TOKEN", "header after the end")
			wantStatus(t, s.SendMsg(wrapperspb.String("late")), codes.Unauthenticated, "INVALID_TOKEN", "message after the end")
			wantStatus(t, s.RecvMsg(new(text)), codes.Unauthenticated, "INVALID_TOKEN", "reading after the end")
			return nil
		}})
		tok := iss.Token(t, quashtest.Claims{})
		s := open(t, with(t, "Bearer "+tok.Text), conn)
		if err := s.SendMsg(wrapperspb.String("never read")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		iss.Revoke(t, "sid", tok.Session)
		_, err := receive(s)
		wantStatus(t, err, codes.Unauthenticated, "INVALID_TOKEN", "the client, while the handler is busy")
		close(free)
		<-ended
	})
}

func TestAStreamThatEndsByItselfIsLeftAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		iss := quashtest.New(t)
		left := make(chan error, 1)
		conn := start(t, iss.Verifier(t, ""), &service{stream: func(s grpc.ServerStream) error {
			for {
				var m text
				switch err := s.RecvMsg(&m); {
				case err == io.EOF:
					return status.Error(codes.NotFound, "the handler's own")
				case err != nil:
					left <- err
					return err
				}
				if err := s.SendMsg(&m); err != nil {
					return err
				}
			}
		}})
		ctx, cancel := context.WithCancel(with(t, "Bearer "+iss.Token(t, quashtest.Claims{}).Text))
		first, second := open(t, ctx, conn), open(t, ctx, conn)
		for _, want := range []string{"a", "b"} {
			if err := first.SendMsg(wrapperspb.String(want)); err != nil {
				t.Fatal(err)
			}
			if got, err := receive(first); got != want || err != nil {
				t.Errorf("got %q, %v, want %q back", got, err, want)
			}
		}
		first.CloseSend()
		if _, err := receive(first); status.Code(err) != codes.NotFound {
			t.Errorf("got %v, want the handler's status", err)
		}
		cancel()
		_, _ = receive(second)
		if err := <-left; status.Code(err) != codes.Canceled {
			t.Errorf("a client that goes away: got %v, want Canceled", err)
		}
	})
}

// A panic of a stream's handler is seen by the interceptors around.
func TestAPanicGoesOnWhereTheCallIsServed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		iss := quashtest.New(t)
		lis := bufconn.Listen(1 << 16)
		var seen any
		conn := serve(t, &service{stream: func(grpc.ServerStream) error { panic("the handler's") }}, lis,
			func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) },
			grpc.ChainStreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
				defer func() {
					seen = recover()
					err = status.Error(codes.Internal, "recovered")
				}()
				return next(srv, s)
			}, quashgrpc.Stream(iss.Verifier(t, ""))))
		_, err := receive(open(t, with(t, "Bearer "+iss.Token(t, quashtest.Claims{}).Text), conn))
		if text, _ := seen.(string); status.Code(err) != codes.Internal || len(text) < len("the handler's") || text[:13] != "the handler's" {
			t.Errorf("got %v, and saw %v, want the handler's panic recovered", err, seen)
		}
	})
}

// Over sockets, with both ends sending all the time: every stream of a session
// ends when it is revoked, the others go on, and nothing is left.
func TestManyStreamsEndOverTCP(t *testing.T) {
	iss := quashtest.New(t)
	v := iss.Verifier(t, "")
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var handlers sync.WaitGroup
	conn := serve(t, &service{stream: func(s grpc.ServerStream) error {
		handlers.Add(1)
		defer handlers.Done()
		for {
			var m text
			switch err := s.RecvMsg(&m); {
			case err == io.EOF:
				return nil
			case err != nil:
				return err
			}
			if err := s.SendMsg(&m); err != nil {
				return err
			}
		}
	}}, lis, func(ctx context.Context, address string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}, grpc.StreamInterceptor(quashgrpc.Stream(v)))
	for range 3 {
		dead, live := iss.Token(t, quashtest.Claims{}), iss.Token(t, quashtest.Claims{})
		var ends sync.WaitGroup
		for range 20 {
			s := open(t, with(t, "Bearer "+dead.Text), conn)
			echo(t, s)
			ends.Go(func() {
				var err error
				for err == nil {
					_ = s.SendMsg(wrapperspb.String("more")) // where it fails, receiving says why
					_, err = receive(s)
				}
				wantStatus(t, err, codes.Unauthenticated, "INVALID_TOKEN", "a stream of the session")
			})
		}
		other := open(t, with(t, "Bearer "+live.Text), conn)
		echo(t, other)
		iss.Revoke(t, "sid", dead.Session)
		ends.Wait()
		echo(t, other)
		if err := other.CloseSend(); err != nil {
			t.Error(err)
		}
		if _, err := receive(other); err != io.EOF {
			t.Errorf("another session's stream: got %v, want its own end", err)
		}
	}
	handlers.Wait()
}

func echo(t *testing.T, s grpc.ClientStream) {
	t.Helper()
	if err := s.SendMsg(wrapperspb.String("hello")); err != nil {
		t.Error(err)
	}
	if got, err := receive(s); got != "hello" || err != nil {
		t.Errorf("got %q, %v, want hello back", got, err)
	}
}
